"""From a model's name to the model: built-in networks, timm's, and the user's own."""

import difflib
import importlib
from collections.abc import Callable

from torch import nn

from selfexplain.errors import InputError, first_line
from selfexplain.models.resnet import cifar_resnet, resnet18
from selfexplain.models.small_cnn import SmallCNN
from selfexplain.models.wide_resnet import WideResNet

BUILT_IN: dict[str, Callable[[int, int], nn.Module]] = {
    "small_cnn": SmallCNN,
    "resnet20": lambda classes, channels: cifar_resnet(20, classes, channels),
    "resnet32": lambda classes, channels: cifar_resnet(32, classes, channels),
    "resnet56": lambda classes, channels: cifar_resnet(56, classes, channels),
    "resnet18": resnet18,
    "wrn16_2": lambda classes, channels: WideResNet(16, 2, classes, channels),
    "wrn28_10": lambda classes, channels: WideResNet(28, 10, classes, channels),
}
"""Name -> factory(num_classes, in_channels) of the networks that come with selfexplain."""


def build_model(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """Build an untrained classifier by name; its weights come from torch's global generator.

    Args:
        name: a key of `BUILT_IN`; `timm:NAME` for a model of timm; or `package.module:factory`
            for your own, called as `factory(num_classes=..., in_channels=...)`.
        num_classes: number of classes K.
        in_channels: channels C of the images.

    Returns:
        A module that maps images (B, C, H, W) to logits (B, K).

    Raises:
        InputError: the name is unknown, or what it names cannot be imported or called.

    Example:
        >>> type(build_model("resnet20", num_classes=10, in_channels=3)).__name__
        'ResNet'
    """
    if name in BUILT_IN:
        return BUILT_IN[name](num_classes, in_channels)
    if name.startswith("timm:"):
        return _build_timm(name.removeprefix("timm:"), num_classes, in_channels)
    if ":" in name:
        return _build_own(name, num_classes, in_channels)
    raise unknown_model(name)


def check_name(name: str) -> None:
    """Raise InputError for a name that is none of ours and says no place to find a model.

    Example:
        >>> check_name("resnet20")
    """
    if name not in BUILT_IN and ":" not in name:
        raise unknown_model(name)


def unknown_model(name: str) -> InputError:
    """What to say of a name that no model has."""
    near = difflib.get_close_matches(name, BUILT_IN, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return InputError(
        f"there is no model {name!r}{hint}; pass one of {', '.join(BUILT_IN)}, timm:NAME, "
        "or package.module:factory"
    )


def _build_timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not load
        raise InputError(
            f"timm:{name} needs timm, which does not import here ({error}); "
            "install it with: pip install 'selfexplain[timm]'"
        ) from error
    if name not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise InputError(f"timm has no model {name!r}; near names: {', '.join(near) or 'none'}")
    model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels)
    return model


def _build_own(name: str, num_classes: int, in_channels: int) -> nn.Module:
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except Exception as error:  # a user's module may raise anything
        raise InputError(
            f"model {name!r} cannot be imported ({first_line(error)}); pass "
            "package.module:factory, with the module's folder on PYTHONPATH"
        ) from error
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
