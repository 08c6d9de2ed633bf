"""Read what a finished run left: its configuration, what its images need, its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.data.pixels import Ranges
from selfexplain.errors import InputError
from selfexplain.recipes.read_records import IMAGES, TRAINED, check_model_of, lengths_agree
from selfexplain.records import printable
from selfexplain.training.checkpoint import loading_from
from selfexplain.training.files import read_json, read_tensors, tensor_shapes

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
    digest: str | None = None
    """Of the weights, as `digest_of` makes it; None where none was kept."""
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
        digest=kept_digest(folder, "model.safetensors"),
        ranges=Ranges.recorded(images.get("ranges")),
    )


def kept_digest(folder: Path, name: str) -> str | None:
    """What `result.json` says that the tensors of a file of its run are; None if it does not.

    Raises:
        InputError: it cannot be read.

    Example:
        >>> kept_digest(Path("absent"), "model.safetensors") is None
        True
    """
    path = folder / "result.json"
    digests = read_json(path).get("digests") if path.exists() else None
    digest = digests.get(name) if isinstance(digests, dict) else None
    return None if digest is None else str(digest)


def check_tensors(folder: Path) -> None:
    """Look at what a run that is done has left beside its result; what was deleted is not missed.

    Raises:
        InputError: a file of tensors is damaged, or the result cannot be read.
    """
    for name in ("predictions.safetensors", "model.safetensors"):
        if (folder / name).exists():
            read_tensors(
                folder / name, digest=kept_digest(folder, name), remedy=_write_again(folder)
            )


def weight_shapes(run: FinishedRun) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of a finished run, by name.

    Raises:
        InputError: they cannot be read.
    """
    return tensor_shapes(run.folder / "model.safetensors", remedy=_remedy(run))


def load_weights(model: nn.Module, run: FinishedRun) -> None:
    """Give a model the weights of a finished run.

    Raises:
        InputError: they cannot be read, are damaged, or are of another model.
    """
    path = run.folder / "model.safetensors"
    with loading_from(path):
        model.load_state_dict(read_tensors(path, digest=run.digest, remedy=_remedy(run)))


def _remedy(run: FinishedRun) -> str:
    """What to do if the weights of a run, or those that were exported, are damaged."""
    exported = not (run.folder / "run.json").exists()
    return "export it, or download it, again" if exported else _write_again(run.folder)


def _write_again(folder: Path) -> str:
    """How to have the files of a finished run written again."""
    return (
        f"delete {folder / 'result.json'} and run the command that made it again (train and "
        "retrain with --resume) to write it anew from the checkpoint"
    )
