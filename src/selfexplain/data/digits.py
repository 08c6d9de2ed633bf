"""The handwritten digits that come with scikit-learn: a data set that needs no download."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from selfexplain.data.sources import Arrays, RawData, RawSplit
from selfexplain.data.splits import hold_out


def read_digits() -> RawData:
    """Read the 1,797 grey images of 8 x 8 pixels; a fixed fifth of each class is the test split.

    Example:
        >>> raw = read_digits()
        >>> len(raw.train.source), len(raw.test.source), raw.class_names[3]
        (1438, 359, '3')
    """
    # Rows of 64 values from 0 to 16, and the digit.
    rows_NP = np.loadtxt(_digits_file(), delimiter=",")
    pixels_NHW = np.round(rows_NP[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels_N = torch.from_numpy(rows_NP[:, -1]).long()
    train, test = hold_out(labels_N, 0.2, seed=0)
    raw_train, raw_test = (
        RawSplit(name=name, source=Arrays(pixels_NHW[rows.numpy()]), labels_N=labels_N[rows])
        for name, rows in (("train", train), ("test", test))
    )
    return RawData(
        train=raw_train, test=raw_test, class_names=tuple(str(digit) for digit in range(10))
    )


def _digits_file() -> Path:
    """Where scikit-learn keeps them, found without its import, which takes as long as torch's."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the data set digits comes with scikit-learn")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
