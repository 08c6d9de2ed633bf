"""Which tensor of a forward is explained, and names of layers that survive wrappers."""

import difflib
from dataclasses import dataclass
from typing import Literal

from torch import nn

from selfexplain.errors import InputError

# DDP, Fabric and torch.compile put the model of the user one attribute deeper.
WRAPPERS = ("module", "_forward_module", "_orig_mod")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor shows in a forward.

    ``input``: what module ``name`` is called with. ``output``: what it returns. ``function``: the
    last tensor of the right shape that a function is given between the end of module ``name`` and
    the head. The name of the model itself is ``""``.

    Example:
        >>> Source("output", "layer4").name
        'layer4'
    """

    at: Literal["input", "output", "function"]
    name: str


def plain_name(name: str) -> str:
    """Return a module's name without the prefixes of wrappers.

    Example:
        >>> plain_name("_forward_module.module.layer4.conv1")
        'layer4.conv1'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def find_module(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return the full name and the module that ``name`` means, with or without wrappers' prefixes.

    Raises:
        InputError: if there is none; the message lists near names, or the first if none is near.

    Example:
        >>> find_module(nn.Sequential(nn.Flatten()), "module.0")
        ('0', Flatten(start_dim=1, end_dim=-1))
    """
    modules = dict(model.named_modules())
    if name in modules:
        return name, modules[name]
    plain = {plain_name(full): full for full in modules}
    full = plain.get(plain_name(name))
    if full is None or not name:
        names = [n for n in plain if n]
        near = difflib.get_close_matches(plain_name(name), names, n=3, cutoff=0.4) or names[:3]
        raise InputError(
            f"layer {name!r} is not in the model; pass a name of model.named_modules()"
            + (f", such as {', '.join(map(repr, near))}" if near else "")
        )
    return full, modules[full]
