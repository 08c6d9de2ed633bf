"""From a model's name to the model: built-in networks, those of hubs, and the user's own."""

import difflib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from selfexplain.errors import InputError, first_line
from selfexplain.lazy import import_named
from selfexplain.models.efficientnet_lite import SIZES, EfficientNetLite
from selfexplain.models.hub import (
    OF_WEIGHTS,
    build_hf,
    build_timm,
    hf_pretraining,
    timm_for,
    timm_pretraining,
    transformers_for,
)
from selfexplain.models.pretrained import Pretraining, lite_file, lite_pretraining, load_lite
from selfexplain.models.resnet import FastCNN, WideResNet, cifar_resnet, resnet18


class SmallCNN(nn.Module):
    """Three blocks of 3x3 convolution, BatchNorm and ReLU; two max-poolings; a pooled linear head.

    Args:
        num_classes: number of classes K.
        in_channels: channels C of the images.
        width: channels of the first block; the second and third have twice and four times as many.

    Shapes:
        input (B, C, H, W) with H, W >= 4; output (B, K) logits;
        last feature map (B, 4 width, H / 4, W / 4).
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.block1 = _block(in_channels, width)
        self.block2 = _block(width, 2 * width)
        self.block3 = _block(2 * width, 4 * width)
        self.halve = nn.MaxPool2d(2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        h = self.halve(self.block1(x_BCHW))
        h = self.block3(self.halve(self.block2(h)))
        logits_BK: Tensor = self.head(self.pool(h).flatten(1))
        return logits_BK


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


BUILT_IN: dict[str, Callable[[int, int], nn.Module]] = {
    "small_cnn": SmallCNN,
    "resnet20": lambda classes, channels: cifar_resnet(20, classes, channels),
    "resnet32": lambda classes, channels: cifar_resnet(32, classes, channels),
    "resnet56": lambda classes, channels: cifar_resnet(56, classes, channels),
    "resnet18": resnet18,
    "wrn16_2": lambda classes, channels: WideResNet(16, 2, classes, channels),
    "wrn28_10": lambda classes, channels: WideResNet(28, 10, classes, channels),
    "fast_cnn": FastCNN,
    **{name: partial(EfficientNetLite, size=size) for name, size in SIZES.items()},
}
"""Name -> factory(num_classes, in_channels) of the networks that come with selfexplain."""


def build_model(
    name: str, *, num_classes: int, in_channels: int, pretrained: bool = False
) -> nn.Module:
    """Build a classifier by name; its weights come from torch's global generator.

    Args:
        name: a key of `BUILT_IN`; `timm:NAME` for a model of timm; `hf:NAME` for a classifier of
            transformers, a repository of the hub or a folder; or `package.module:factory` for your
            own, called as `factory(num_classes=..., in_channels=...)`.
        num_classes: number of classes K.
        in_channels: channels C of the images.
        pretrained: start from the weights that others have trained; the head is new unless the
            number of classes is theirs. `pretraining_of` says how to normalise images.

    Returns:
        A module that maps images (B, C, H, W) to logits (B, K).

    Raises:
        InputError: the name is unknown, or what it names cannot be imported or called, or there are
            no weights of it.

    Example:
        >>> type(build_model("resnet20", num_classes=10, in_channels=3)).__name__
        'ResNet'
    """
    check_model_name(name, pretrained=pretrained)
    if name in BUILT_IN:
        model = BUILT_IN[name](num_classes, in_channels)
        if pretrained:
            load_lite(model, name)
        return model
    if name.startswith("timm:"):
        return build_timm(name, num_classes, in_channels, pretrained=pretrained)
    if name.startswith("hf:"):
        return build_hf(name, num_classes, in_channels, pretrained=pretrained)
    return _build_own(name, num_classes, in_channels)


def check_model_name(name: str, *, pretrained: bool = False) -> None:
    """Raise InputError unless there is a model of this name, with weights if they are wanted.

    It is not built, and no hub is asked.

    Example:
        >>> check_model_name("resnet20")
    """
    if name.startswith("timm:"):
        timm_for(name, pretrained=pretrained)
    elif name.startswith("hf:"):
        transformers_for(name)
    elif is_own(name):
        _factory(name)
    elif name not in BUILT_IN:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(
            f"there is no model {name!r}{hint}; pass one of {', '.join(BUILT_IN)}, timm:NAME, "
            "hf:NAME, or package.module:factory"
        )
    if pretrained:
        check_weights(name)


def check_weights(name: str) -> None:
    """Raise InputError for a model that has no weights, or whose package is missing."""
    if name not in SIZES and not name.startswith(("timm:", "hf:")):
        raise InputError(
            f"there are no weights of {name}; pass one of {', '.join(SIZES)}, timm:NAME or "
            "hf:NAME, or leave out --pretrained"
        )
    if name in SIZES:
        lite_file(name)


def check_without_weights(
    name: str, remedy: str = "pass --pretrained to start from them, or another model"
) -> None:
    """Raise InputError for the name of weights where none may be given.

    Example:
        >>> check_without_weights("hf:microsoft/resnet-18")
        Traceback (most recent call last):
        selfexplain.errors.InputError: hf:microsoft/resnet-18 names weights; pass --pretrained ...
    """
    if OF_WEIGHTS.match(name):
        raise InputError(f"{name} names weights; {remedy}")


def pretraining_of(name: str) -> Pretraining:
    """What the weights of a model were trained on; the weights are not read.

    Args:
        name: as for `build_model`, of a model of which there are weights.

    Raises:
        InputError: there are no weights of it, or their description cannot be had.

    Example:
        >>> found = pretraining_of("efficientnet_lite0")
        >>> found.image_size, found.class_names[985]
        (224, 'daisy')
    """
    check_model_name(name, pretrained=True)
    if name.startswith("timm:"):
        return timm_pretraining(name)
    if name.startswith("hf:"):
        return hf_pretraining(name)
    return lite_pretraining(name)


def is_own(name: object) -> bool:
    """Whether a model's name stands for code of the user's own, which is imported and called.

    Example:
        >>> is_own("my.models:make"), is_own("timm:resnet18"), is_own("resnet20")
        (True, False, False)
    """
    return isinstance(name, str) and ":" in name and not name.startswith(("timm:", "hf:"))


def _factory(name: str) -> Callable[..., Any]:
    """The user's own factory."""
    try:
        factory: Callable[..., Any] = import_named(name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise InputError(
            f"model {name!r} cannot be imported ({first_line(error)}){_meant(name)}; pass "
            "package.module:factory, with the module in this directory or on PYTHONPATH"
        ) from error
    if not callable(factory):
        raise InputError(
            f"model {name!r} is a {type(factory).__name__}; pass package.module:factory, a function"
        )
    return factory


def _meant(name: str) -> str:
    """The name of a function, or of a module in this directory, that is nearly this one."""
    module_name, _, path = name.partition(":")
    module = sys.modules.get(module_name)
    if module is None:
        here = (each.stem for each in Path().glob("*.py"))
        near = [f"{each}:{path}" for each in difflib.get_close_matches(module_name, here, n=1)]
    else:
        known = [each for each, value in vars(module).items() if callable(value)]
        near = [f"{module_name}:{each}" for each in difflib.get_close_matches(path, known, n=1)]
    return f" (did you mean {near[0]}?)" if near else ""


def _build_own(name: str, num_classes: int, in_channels: int) -> nn.Module:
    factory = _factory(name)
    try:
        model = factory(num_classes=num_classes, in_channels=in_channels)
    except Exception as error:  # and so may a user's factory
        raise InputError(
            f"model {name!r} could not be built ({first_line(error)}); its factory is called as "
            "factory(num_classes=K, in_channels=C)"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model {name!r} returned a {type(model).__name__}; the factory must return "
            "a torch.nn.Module"
        )
    return model
