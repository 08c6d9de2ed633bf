"""From a model's name to the model: built-in networks, timm's, and the user's own."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from selfexplain.errors import InputError, first_line, import_failure
from selfexplain.lazy import import_named
from selfexplain.models.efficientnet_lite import SIZES, EfficientNetLite
from selfexplain.models.pretrained import load_lite
from selfexplain.models.resnet import WideResNet, cifar_resnet, resnet18
from selfexplain.models.small_cnn import SmallCNN

BUILT_IN: dict[str, Callable[[int, int], nn.Module]] = {
    "small_cnn": SmallCNN,
    "resnet20": lambda classes, channels: cifar_resnet(20, classes, channels),
    "resnet32": lambda classes, channels: cifar_resnet(32, classes, channels),
    "resnet56": lambda classes, channels: cifar_resnet(56, classes, channels),
    "resnet18": resnet18,
    "wrn16_2": lambda classes, channels: WideResNet(16, 2, classes, channels),
    "wrn28_10": lambda classes, channels: WideResNet(28, 10, classes, channels),
    **{name: partial(EfficientNetLite, size=size) for name, size in SIZES.items()},
}
"""Name -> factory(num_classes, in_channels) of the networks that come with selfexplain."""


def build_model(
    name: str, *, num_classes: int, in_channels: int, pretrained: bool = False
) -> nn.Module:
    """Build a classifier by name; its weights come from torch's global generator.

    Args:
        name: a key of `BUILT_IN`; `timm:NAME` for a model of timm; or `package.module:factory`
            for your own, called as `factory(num_classes=..., in_channels=...)`.
        num_classes: number of classes K.
        in_channels: channels C of the images.
        pretrained: start from the weights that the network learned on ImageNet; its head is new
            unless the number of classes is theirs. `wanted_input` says how to normalise images.

    Returns:
        A module that maps images (B, C, H, W) to logits (B, K).

    Raises:
        InputError: the name is unknown, or what it names cannot be imported or called, or there are
            no weights of it.

    Example:
        >>> type(build_model("resnet20", num_classes=10, in_channels=3)).__name__
        'ResNet'
    """
    check_model_name(name)
    if pretrained and name not in SIZES:
        raise InputError(
            f"there are no weights of {name}; pass one of {', '.join(SIZES)}, or leave out "
            "--pretrained"
        )
    if name in BUILT_IN:
        model = BUILT_IN[name](num_classes, in_channels)
        if pretrained:
            load_lite(model, name)
        return model
    if name.startswith("timm:"):
        return _build_timm(name.removeprefix("timm:"), num_classes, in_channels)
    return _build_own(name, num_classes, in_channels)


def check_model_name(name: str) -> None:
    """Raise InputError unless there is a model of this name; it is not built.

    Example:
        >>> check_model_name("resnet20")
    """
    if name in BUILT_IN:
        return
    if name.startswith("timm:"):
        _timm_with(name.removeprefix("timm:"))
        return
    if is_own(name):
        _factory(name)
        return
    near = difflib.get_close_matches(name, BUILT_IN, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise InputError(
        f"there is no model {name!r}{hint}; pass one of {', '.join(BUILT_IN)}, timm:NAME, "
        "or package.module:factory"
    )


def is_own(name: object) -> bool:
    """Whether a model's name stands for code of the user's own, which is imported and called.

    Example:
        >>> is_own("my.models:make"), is_own("timm:resnet18"), is_own("resnet20")
        (True, False, False)
    """
    return isinstance(name, str) and ":" in name and not name.startswith("timm:")


def _timm_with(name: str) -> Any:
    """The package timm, which has a model of this name."""
    try:
        import timm
    except Exception as error:  # a package that is broken may raise anything
        install = "install it with: pip install 'selfexplain[timm]'"
        raise import_failure(error, f"timm:{name}", "timm", install) from error
    if name not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise InputError(f"timm has no model {name!r}; near names: {', '.join(near) or 'none'}")
    return timm


def _build_timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    timm = _timm_with(name)
    try:
        model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels)
    except Exception as error:  # not every model takes every number of channels
        raise InputError(
            f"timm:{name} cannot be built for {num_classes} classes and images of {in_channels} "
            f"channels ({first_line(error)}); pass another model, or --channels"
        ) from error
    return model


def _factory(name: str) -> Callable[..., Any]:
    """The user's own factory."""
    try:
        factory: Callable[..., Any] = import_named(name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise InputError(
            f"model {name!r} cannot be imported ({first_line(error)}); pass "
            "package.module:factory, with the module in this directory or on PYTHONPATH"
        ) from error
    if not callable(factory):
        raise InputError(
            f"model {name!r} is a {type(factory).__name__}; pass package.module:factory, a function"
        )
    return factory


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
