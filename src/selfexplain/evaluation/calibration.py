"""Calibration error of the top class, over bins of equal width or of equal mass.

Shape suffixes: N images, K classes.
"""

import torch
from torch import Tensor

from selfexplain.evaluation.ranking import by_confidence

BINS = 15
"""As in Guo et al. (2017)."""


def calibration_error(logits_NK: Tensor, y_N: Tensor) -> float:
    """ECE in percent: mean gap between confidence and accuracy over 15 bins of equal width.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.

    Example:
        >>> calibration_error(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        50.0
    """
    # Here, as it imports much that only other metrics need.
    from torchmetrics.functional.classification import multiclass_calibration_error

    return 100 * float(
        multiclass_calibration_error(
            logits_NK.softmax(dim=1),
            y_N,
            num_classes=logits_NK.shape[1],
            n_bins=BINS,
            norm="l1",
        )
    )


def adaptive_calibration_error(logits_NK: Tensor, y_N: Tensor, bins: int = BINS) -> float:
    """Adaptive ECE in percent: the gap between confidence and accuracy over bins of equal mass.

    A trained network is nearly certain of most images, which then share one bin of equal width;
    bins of equal mass look at each part of them. The idea is Nguyen and O'Connor's (2015); the
    top-class form is Mukhoti et al.'s (2020, "Calibrating Deep Neural Networks using Focal Loss").

    Args:
        logits_NK: logits (N, K).
        y_N: labels (N,).
        bins: number of bins; their sizes differ by at most one image.

    Example:
        >>> adaptive_calibration_error(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        50.0
    """
    confidence_N, correct_N = by_confidence(logits_NK, y_N)
    gaps = (correct_N - confidence_N).tensor_split(bins)
    return 100 * float(torch.stack([gap.sum().abs() for gap in gaps]).sum() / len(y_N))
