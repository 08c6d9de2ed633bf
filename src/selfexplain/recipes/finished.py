"""Read what a finished run left: its configuration, what its images need, its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.recipes.read_records import IMAGES, TRAINED, check_model_of, lengths_agree
from selfexplain.records import printable
from selfexplain.training.checkpoint import loading_from
from selfexplain.training.files import read_json

FINISHED = {
    **TRAINED,
    "images": {**IMAGES, **{name: IMAGES[f"{name}?"] for name in ("shape", "mean", "std")}},
}
"""The shape of a `run.json` that says what its images are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """What `run.json` of a finished run says."""

    folder: Path
    config: dict[str, Any]
    class_names: tuple[str, ...]
    shape_CHW: tuple[int, int, int]
    mean_C: Tensor
    std_C: Tensor

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)


def read_finished(folder: Path) -> FinishedRun:
    """Read the record of a finished run of `train`, `retrain` or `compare`.

    Raises:
        InputError: the folder holds no finished run, or its record cannot be read.

    Example:
        >>> read_finished(Path("absent"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: absent holds no finished run; pass a folder with run.json ...
    """
    if not (folder / "model.safetensors").exists():
        raise InputError(
            f"{folder} holds no finished run; pass a folder with run.json and model.safetensors"
        )
    path = folder / "run.json"
    run = read_json(path, FINISHED)
    images = run["images"]
    check_model_of(run["config"], path)
    channels, height, width = images["shape"]
    lengths_agree(path, mean=images["mean"], std=images["std"], channels=[0] * channels)
    return FinishedRun(
        folder=folder,
        config=run["config"],
        class_names=tuple(printable(images["class_names"])),
        shape_CHW=(channels, height, width),
        mean_C=torch.tensor(images["mean"], dtype=torch.float32),
        std_C=torch.tensor(images["std"], dtype=torch.float32),
    )


def load_weights(model: nn.Module, folder: Path) -> None:
    """Give a model the weights of a finished run.

    Raises:
        InputError: they cannot be read, or are of another model.
    """
    path = folder / "model.safetensors"
    with loading_from(path):
        model.load_state_dict(load_file(path))
