"""Read what a finished run left: its configuration, what its images need, its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from selfexplain.data.pixels import Ranges
from selfexplain.errors import InputError
from selfexplain.recipes.folder import saved_config
from selfexplain.training.checkpoint import loading_from
from selfexplain.training.files import read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """What `run.json` of a finished run says."""

    folder: Path
    config: dict[str, Any]
    class_names: tuple[str, ...]
    shape_CHW: tuple[int, int, int]
    mean_C: Tensor
    std_C: Tensor
    ranges: Ranges | None = None

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
    images = read_json(path).get("images")
    if not isinstance(images, dict):
        raise InputError(f"{path} does not say what its images are; pass another folder")
    channels, height, width = images["shape"]
    return FinishedRun(
        folder=folder,
        config=saved_config(path),
        class_names=tuple(images["class_names"]),
        shape_CHW=(channels, height, width),
        mean_C=torch.tensor(images["mean"]),
        std_C=torch.tensor(images["std"]),
        ranges=Ranges.recorded(images.get("ranges")),
    )


def load_weights(model: nn.Module, folder: Path) -> None:
    """Give a model the weights of a finished run.

    Raises:
        InputError: they cannot be read, or are of another model.
    """
    path = folder / "model.safetensors"
    with loading_from(path):
        model.load_state_dict(load_file(path))
