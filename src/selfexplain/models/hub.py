"""Networks of the Hugging Face hub, or of folders in its layout: timm's and those of transformers.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError, first_line, import_failure
from selfexplain.models.pretrained import Pretraining, first_misfit, imagenet_classes

SOURCED = re.compile(r"timm:(hf[-_]hub|local-dir):")
"""What begins the name of a model of timm's that lies on the hub, or in a folder."""
OF_WEIGHTS = re.compile(rf"hf:|{SOURCED.pattern}|timm:[^:]*\.")
"""What begins the name of weights, and not of a network alone."""


def lies_in_folder(name: object) -> bool:
    """Whether the name of a model is that of a folder of this machine."""
    if not isinstance(name, str):
        return False
    return name.startswith("timm:local-dir:") or (name[:3] == "hf:" and Path(name[3:]).is_dir())


def timm_for(name: str, *, pretrained: bool) -> Any:
    """The package timm, which has the model that is named with timm: before it."""
    try:
        import timm
    except Exception as error:  # a package that is broken may raise anything
        install = "install it with: pip install 'selfexplain[timm]'"
        raise import_failure(error, name, "timm", install) from error
    if SOURCED.match(name):
        return timm
    known = name.removeprefix("timm:")
    architecture = known.partition(".")[0]  # after which timm names weights
    if architecture not in timm.list_models():
        near = difflib.get_close_matches(known, timm.list_models(), n=3)
        raise InputError(f"timm has no model {known!r}; near names: {', '.join(near) or 'none'}")
    if pretrained and not timm.list_models(f"{known}*", pretrained=True):
        tags = timm.list_models(f"{architecture}.*", pretrained=True)
        raise InputError(
            f"timm has no weights of {known!r}; "
            + (f"pass one of {', '.join(tags[:5])}" if tags else "leave out --pretrained")
        )
    return timm


def build_timm(name: str, classes: int, channels: int, *, pretrained: bool) -> nn.Module:
    """A model of timm for this many classes and channels, with its weights if `pretrained`."""
    timm = timm_for(name, pretrained=pretrained)
    extra = {"pretrained": True} if pretrained else {}
    try:
        model: nn.Module = timm.create_model(
            name.removeprefix("timm:"), num_classes=classes, in_chans=channels, **extra
        )
    except Exception as error:  # not every model takes every number of channels
        raise InputError(
            f"{name} cannot be built for {classes} classes and images of {channels} "
            f"channels ({first_misfit(error)}); {_remedy(name, pretrained)}"
        ) from error
    return model


def _remedy(name: str, pretrained: bool) -> str:
    if SOURCED.match(name) or name.startswith("hf:"):
        return "pass a folder, or a repository of the hub, that holds such a model whole"
    if pretrained:
        return "pass another model, or --channels, and see that the hub can be reached"
    return "pass another model, or --channels"


def timm_pretraining(name: str) -> Pretraining:
    """What the weights of a model of timm were trained on, as its configuration says."""
    timm = timm_for(name, pretrained=True)
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            known = timm.create_model(name.removeprefix("timm:"))
    except Exception as error:
        raise InputError(
            f"{name} cannot be read ({first_misfit(error)}); {_remedy(name, pretrained=True)}"
        ) from error
    described: dict[str, Any] = known.pretrained_cfg
    classes = int(described.get("num_classes") or known.num_classes)
    return Pretraining(
        mean=tuple(described["mean"]),
        std=tuple(described["std"]),
        image_size=int(described["input_size"][-1]),
        class_names=_names(described.get("label_names"), classes),
    )


def _names(given: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    """The names that weights say, or ImageNet's, or numbers."""
    if given and len(given) == classes:
        return tuple(map(str, given))
    return imagenet_classes() if classes == 1000 else tuple(map(str, range(classes)))


class Logits(nn.Module):
    """An image classifier of transformers as a model that returns logits.

    Args:
        model: takes `pixel_values` (B, C, H, W) and returns an output with `logits` (B, K).

    Example:
        >>> import transformers
        >>> config = transformers.ResNetConfig(
        ...     embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3
        ... )
        >>> model = Logits(transformers.ResNetForImageClassification(config))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        logits_BK: Tensor = self.model(pixel_values=x_BCHW).logits
        return logits_BK


def transformers_for(name: str) -> Any:
    """The package transformers, for a model that is named with hf: before it."""
    try:
        import transformers
    except Exception as error:
        install = "install it with: pip install 'selfexplain[huggingface]'"
        raise import_failure(error, name, "transformers", install) from error
    return transformers


def build_hf(name: str, classes: int, channels: int, *, pretrained: bool) -> nn.Module:
    """A classifier of transformers for this many classes; the repository's code is not run."""
    transformers, where = transformers_for(name), name.removeprefix("hf:")
    try:
        config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
        own = getattr(config, "num_channels", 3)
        make = transformers.AutoModelForImageClassification
        if own == channels:
            with _quietly(transformers):
                network, misfits = _hf_network(make, where, config, classes, pretrained)
    except Exception as error:  # the hub, its files and its classes may raise anything
        raise InputError(
            f"{name} cannot be loaded ({first_line(error)}); {_remedy(name, pretrained)}"
        ) from error
    if own != channels:
        raise InputError(f"{name} is for images of {own} channels; pass --channels {own}")
    if misfits:
        raise InputError(
            f"the weights of {name} are not those of its architecture ({misfits[0]} does not fit); "
            f"{_remedy(name, pretrained)}"
        )
    return Logits(network.float().train())


def _hf_network(
    make: Any, where: str, config: Any, classes: int, pretrained: bool
) -> tuple[nn.Module, list[str]]:
    """The network, and the names of weights outside of its head that are missing or do not fit."""
    same = config.num_labels == classes
    if not same:
        config.num_labels = classes
    if not pretrained:
        return make.from_config(config, trust_remote_code=False), []
    network, told = make.from_pretrained(
        where,
        config=config,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        trust_remote_code=False,
    )
    mismatched = [each[0] for each in told["mismatched_keys"]]
    lacking = [*told["missing_keys"], *mismatched]
    return network, [key for key in sorted(lacking) if same or not _is_of_head(network, key)]


def _is_of_head(network: nn.Module, key: str) -> bool:
    """Whether a weight is of a linear layer of the classes: those of the head alone may be new."""
    layer = network.get_submodule(key.rpartition(".")[0])
    classes = network.config.num_labels  # type: ignore[union-attr]
    return isinstance(layer, nn.Linear) and layer.out_features == classes


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Keep transformers from printing bars and tables of what we check ourselves."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def hf_pretraining(name: str) -> Pretraining:
    """What a classifier of transformers was trained on, as its image processor says."""
    transformers, where = transformers_for(name), name.removeprefix("hf:")
    try:
        config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
        read = transformers.ImageProcessingMixin.get_image_processor_dict
        told, _ = read(where)
    except Exception as error:
        raise InputError(
            f"{name} cannot be read ({first_line(error)}); {_remedy(name, pretrained=True)}"
        ) from error
    channels = getattr(config, "num_channels", 3)
    unit = (
        1 / (255 * told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1 / 255
    )
    normalises = told.get("do_normalize", True)
    mean = told.get("image_mean", [0.5] * channels) if normalises else [0.0] * channels
    std = told.get("image_std", [0.5] * channels) if normalises else [1.0] * channels
    resized = _side(told.get("size"), getattr(config, "image_size", 224))
    cropped = _side(told.get("crop_size"), resized) if told.get("do_center_crop") else resized
    return Pretraining(
        mean=tuple(unit * value for value in mean),
        std=tuple(unit * value for value in std),
        image_size=cropped,
        class_names=_names(
            [config.id2label[k] for k in sorted(config.id2label)], config.num_labels
        ),
    )


def _side(size: Any, otherwise: Any) -> int:
    """The side of an image, of all the ways in which configurations say it."""
    if isinstance(size, Mapping):
        size = next((size[k] for k in ("shortest_edge", "height", "width") if k in size), None)
    if isinstance(size, Sequence):
        size = size[0]
    return int(otherwise if size is None else size)
