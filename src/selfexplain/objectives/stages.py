"""Find the stages of a convolutional network.

Shape suffixes: B batch, C channels, H and W space.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from selfexplain.errors import InputError
from selfexplain.explanations.source import find_module
from selfexplain.objectives.probe import Probe, Stage, probe

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
HALVED = 0.6  # of the side before: an uneven side is rounded, a convolution may lose its border
MOST = 3  # as the four sections of a published ResNet have


@dataclass(frozen=True, kw_only=True, slots=True)
class Staging:
    """The stages of a model, and where it ends; names, so that it serves copies of the model too.

    Example:
        >>> Staging(stages=(), side=4, head="fc", features=512, classes=10).head
        'fc'
    """

    stages: tuple[Stage, ...]
    side: int
    """Of the deepest feature map."""
    head: str
    """The linear layer that returns the logits."""
    features: int
    """That it is given."""
    classes: int


def find_stages(
    model: nn.Module, image_shape: tuple[int, int, int], layers: Sequence[str] | None = None
) -> Staging:
    """Find where the resolution of a model halves, or look the named layers up.

    A stage is what the last module before a halving returns; the deepest feature map and what is
    pooled from it are none. Modules inside of blocks, where a shortcut may lead past them, count
    only if there is no stage outside. Of more than three stages the last three are taken. It costs
    one forward pass in evaluation mode, which leaves the model as it was.

    Args:
        model: maps images to logits, by an `nn.Linear` at its end.
        image_shape: (C, H, W).
        layers: names of modules that return (B, C, H, W), in place of those found; the last call
            of each counts.

    Raises:
        InputError: there is no such layer or no stage, or the model does not end in a linear layer.

    Example:
        >>> from selfexplain.models import build_model
        >>> model = build_model("resnet20", num_classes=10, in_channels=3)
        >>> [stage.name for stage in find_stages(model, (3, 32, 32)).stages]
        ['stages.0', 'stages.1']
    """
    seen = probe(model, image_shape)
    if layers is None:
        stages = _halvings(model, seen)
        if not stages:
            raise InputError(
                "no module was found after which the resolution of the feature map halves; pass "
                "layers, names of modules that return (B, C, H, W)"
            )
    else:
        stages = [_named(model, seen, name) for name in layers]
        if len({stage.name for stage in stages}) < max(1, len(stages)):
            raise InputError("layers is empty or names one twice; pass different names of modules")
    head, features = seen.head()
    return Staging(
        stages=tuple(stages),
        side=seen.deepest_side(),
        head=head,
        features=features,
        classes=seen.classes,
    )


def _halvings(model: nn.Module, seen: Probe) -> list[Stage]:
    """The last outputs before each halving, from as far outside of blocks as there are any."""
    depth = {stage.name: _blocks_around(model, stage.name) for stage, _ in seen.maps}
    for most in sorted(set(depth.values())):
        path = [stage for stage, _ in seen.maps if stage.name and depth[stage.name] <= most]
        stages = [
            before
            for before, after in itertools.pairwise(path)
            if after.side <= HALVED * before.side and before.side > seen.deepest_side()
        ]
        if stages:
            return stages[-MOST:]
    return []


def _blocks_around(model: nn.Module, name: str) -> int:
    """How many modules that are no mere containers lie between the model and a module."""
    parts = name.split(".")
    around = (".".join(parts[:i]) for i in range(1, len(parts)))
    return sum(not isinstance(model.get_submodule(outer), CONTAINERS) for outer in around)


def _named(model: nn.Module, seen: Probe, name: str) -> Stage:
    full, _ = find_module(model, name)
    found = [stage for stage, _ in seen.maps if stage.name == full]
    if not found:
        returned = seen.returned.get(full)
        what = f"returns {returned}" if returned else "is not called in a forward pass"
        raise InputError(f"layer {name!r} {what}; pass layers that return (B, C, H, W)")
    return Stage(full, -1, found[-1].channels, found[-1].side)
