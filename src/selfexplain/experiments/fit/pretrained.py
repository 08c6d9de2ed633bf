"""Trained classifiers in a folder or on the Hugging Face hub, as `selfexplain export` writes them.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from selfexplain.errors import InputError, first_line
from selfexplain.experiments.fit.model import build_of
from selfexplain.experiments.read_records import CONFIG as RECORDED
from selfexplain.experiments.read_records import IMAGES
from selfexplain.experiments.run_dir import FinishedRun, finished_run, load_weights
from selfexplain.files import read_json, write_record
from selfexplain.models.build import is_own
from selfexplain.records import Maybe, Text, misfit

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_CONFIG = 20_000_000
"""Bytes of a configuration, nearly all of them names of classes."""
REPOSITORY = re.compile(r"\w[\w.-]{0,94}\w?/\w[\w.-]{0,94}", re.ASCII)
"""Names that the hub may have."""
EXPORTED = {
    "model": RECORDED,
    "class_names": IMAGES["class_names"],
    "image_shape": IMAGES["shape?"],
    "mean": IMAGES["mean?"],
    "std": IMAGES["std?"],
    "digest?": Maybe(Text()),
}
"""The shape of an exported configuration."""
LOCAL = re.compile(r"(folder|parquet):")
"""What begins the name of a data set that lies in a folder here."""
PLACE = re.compile(r"""(?<![\w./\\])([A-Za-z]:|~[\w.-]*|\.{1,2})?[/\\][^\s,;="'|]+""")
"""A path that begins at the root, at somebody's home, or at the folder where a run was started."""


class PixelClassifier(nn.Module):
    """A classifier of pixels in [0, 1], which it normalises as its training images were.

    Args:
        model: maps normalised images (B, C, H, W) to logits (B, K).
        mean_C: mean of the channels, in units of [0, 1].
        std_C: their standard deviation.
        class_names: K names.
        shape_CHW: of an image.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> one = torch.ones(1)
        >>> classifier = PixelClassifier(model, one / 2, one, ("cat", "dog"), (1, 2, 2))
        >>> classifier(torch.rand(3, 1, 2, 2)).shape
        torch.Size([3, 2])
    """

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean_C: Tensor,
        std_C: Tensor,
        class_names: tuple[str, ...],
        shape_CHW: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.model = model
        self.class_names = class_names
        self.shape_CHW = shape_CHW
        self.register_buffer("mean_C11", mean_C[:, None, None].clone(), persistent=False)
        self.register_buffer("std_C11", std_C[:, None, None].clone(), persistent=False)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of pixels in [0, 1]."""
        logits_BK: Tensor = self.model((pixels_BCHW - self.mean_C11) / self.std_C11)
        return logits_BK


def classifier_of(run: FinishedRun) -> PixelClassifier:
    """The classifier of a finished run, in evaluation mode.

    Raises:
        InputError: its model cannot be built here, or its weights cannot be read.
    """
    model = build_of(run)
    load_weights(model, run)
    return pixel_classifier(run, model)


def pixel_classifier(run: FinishedRun, model: nn.Module) -> PixelClassifier:
    """A trained model as the classifier of what is known of its run."""
    return PixelClassifier(model, run.mean_C, run.std_C, run.class_names, run.shape_CHW).eval()


def write_config(path: Path, run: FinishedRun, digest: str) -> None:
    """Write what `from_pretrained` needs beside the weights, of which it keeps the digest."""
    write_record(
        path,
        {
            "schema": 1,
            "library": "selfexplain",
            "model": without_places(run.config),
            "class_names": list(run.class_names),
            "image_shape": list(run.shape_CHW),
            "mean": run.mean_C.tolist(),
            "std": run.std_C.tolist(),
            "digest": digest,
        },
    )


def without_places(value: Any) -> Any:
    """A configuration as others may see it: of each path of this machine, the last name alone.

    Args:
        value: as JSON has it; paths may also stand in a text, as in `folder:/home/me/pets`.

    Example:
        >>> without_places({"data": "folder:/home/me/my pets", "teacher": "/home/me/runs/wide"})
        {'data': 'folder:my pets', 'teacher': 'wide'}
        >>> without_places({"data": "hub:me/pets", "model": "my.models:make"})
        {'data': 'hub:me/pets', 'model': 'my.models:make'}
    """
    if isinstance(value, dict):
        return {name: without_places(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(each) for each in value]
    if isinstance(value, Path):
        return value.name
    if not isinstance(value, str):
        return value
    if LOCAL.match(value):
        scheme, _, place = value.partition(":")
        return f"{scheme}:{_last_name(place)}"
    if PLACE.match(value):
        return _last_name(value)
    return PLACE.sub(lambda found: _last_name(found[0]), value)


def _last_name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def from_pretrained(
    where: str | Path, *, revision: str | None = None, own_code: bool = False
) -> PixelClassifier:
    """Load a classifier that `selfexplain export` wrote, from a folder or from the hub.

    Weights and configuration are data and run nothing, with one exception: a model of somebody's
    own (`package.module:factory`) is imported and called. In a folder it is, so pass folders that
    you trust; from the hub it is when `own_code` says so.

    Args:
        where: a folder; or a repository's name on the Hugging Face hub, NAME/NAME.
        revision: branch, tag or commit on the hub; None for the newest.
        own_code: whether a repository of the hub may name code that is installed here.

    Returns:
        The classifier, in evaluation mode, on the CPU.

    Raises:
        InputError: there is no such folder or repository, it holds no exported classifier or a
            damaged one, or a repository names code that is not to be run.

    Example:
        >>> from_pretrained("absent/folder/of/mine")
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no folder absent/folder/of/mine; pass one that ...
    """
    folder = Path(where)
    here = bool(str(where)) and _is_folder(folder)
    if not here:
        folder = _from_hub(str(where), revision)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{where} lacks {CONFIG} or {WEIGHTS}; pass what selfexplain export has written"
        )
    run = _read_config(folder)
    if not here and not own_code and is_own(run.config.get("model")):
        raise InputError(
            f"{where} names a model that is not part of selfexplain, {run.config['model']}, which "
            "would be imported and called here; pass own_code=True if you trust its publisher"
        )
    return classifier_of(run)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for any file system
        return False


def _read_config(folder: Path) -> FinishedRun:
    if (size := (folder / CONFIG).stat().st_size) > MAX_CONFIG:
        raise InputError(
            f"{folder / CONFIG} has {size / 1e6:.0f} MB, and a configuration has at most "
            f"{MAX_CONFIG / 1e6:g}; pass what selfexplain export has written"
        )
    config = read_json(folder / CONFIG)
    if found := misfit(config, EXPORTED):
        raise InputError(
            f"{folder / CONFIG} is not a configuration of selfexplain ({found}); pass what "
            "selfexplain export has written"
        )
    images = {"shape": config["image_shape"]} | {
        name: config[name] for name in ("class_names", "mean", "std")
    }
    return finished_run(folder / CONFIG, config["model"], images, config.get("digest"))


def _from_hub(name: str, revision: str | None) -> Path:
    """A local copy of the two files of a repository."""
    if not REPOSITORY.fullmatch(name) or "--" in name or ".." in name:
        raise InputError(
            f"there is no folder {name}; pass one that selfexplain export has written, or a "
            "repository of the hub as NAME/NAME"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"{name} is neither a folder here nor a repository of the hub that can be read "
            f"({first_line(error)}); check the name, or log in with: hf auth login"
        ) from error
