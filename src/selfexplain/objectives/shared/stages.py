"""Find the stages of a convolutional network.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations.hooks import every_output, forward_hooks, preserved
from selfexplain.explanations.layout import check_output, find_module

# Watch one forward pass: which modules return feature maps, and which layer the logits.


@dataclass(frozen=True, slots=True)
class Stage:
    """The output (B, C, H, W) of a module, in one of its calls in a forward pass."""

    name: str
    call: int
    channels: int
    side: int


@dataclass(slots=True)
class Probe:
    """What modules returned in one forward pass, in order."""

    classes: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    """Of each module that was called: the number of its last call, from 0."""
    maps: list[tuple[Stage, bool]] = field(default_factory=list)
    """Outputs (B, C, H, W), and whether the module has parameters."""
    linear: list[tuple[str, torch.Size, Tensor]] = field(default_factory=list)
    """Linear layers, with the shape of what they were given, and what they returned."""
    logits_BK: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    returned: dict[str, str] = field(default_factory=dict)
    """Of each module: what its last call returned, for messages."""

    def note(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Record one call of a module."""
        call = self.calls[name] = self.calls.get(name, -1) + 1
        shape = getattr(output, "shape", None)
        self.returned[name] = type(output).__name__ if shape is None else str(tuple(shape))
        if isinstance(output, Tensor) and output.ndim == 4:
            stage = Stage(name, call, output.shape[1], output.shape[2])
            self.maps.append((stage, any(True for _ in module.parameters())))
        if isinstance(module, nn.Linear) and isinstance(output, Tensor):
            self.linear.append((name, inputs[0].shape, output.clone()))

    def deepest_side(self) -> int:
        """Of the last feature map that was learned; what follows it is pooled from it."""
        return next((stage.side for stage, learned in reversed(self.maps) if learned), 0)

    def head(self) -> tuple[str, int]:
        """Name of the linear layer that returns the logits, and how many features it is given.

        What comes after it may scale or shift them; of several layers, one must return them.
        """
        alike = [
            (name, given, returned)
            for name, given, returned in self.linear
            if len(given) == 2 and returned.shape[1] == self.classes
        ]
        exact = [each for each in alike if torch.equal(each[2], self.logits_BK)]
        if exact or (len(alike) == 1 and alike[0][0] == self.linear[-1][0]):
            name, given, _ = (exact or alike)[-1]
            return name, given[1]
        raise InputError(
            "the model does not end in an nn.Linear of one vector for each image; pass a model "
            "with such a head"
        )


def probe(model: nn.Module, image_shape: tuple[int, int, int]) -> Probe:
    """Watch a forward pass of two black images in evaluation mode; the model is left as it was."""
    like = next(model.parameters(), torch.zeros(()))
    x_BCHW = torch.zeros(2, *image_shape, dtype=like.dtype, device=like.device)
    probed = Probe()
    hooks = every_output(model, lambda name: functools.partial(probed.note, name))
    with preserved(model, x_BCHW, eval_mode=True), torch.no_grad(), forward_hooks(model, hooks):
        logits_BK = model(x_BCHW)
    probed.logits_BK = check_output(logits_BK, len(x_BCHW))
    probed.classes = probed.logits_BK.shape[1]
    return probed


CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
HALVED = 0.6  # of the side before: an uneven side is rounded, a convolution may lose its border
MOST = 3  # as the four sections of a published ResNet have


@dataclass(frozen=True, kw_only=True, slots=True)
class Staging:
    """The stages of a model, and where it ends; names, so that it also serves copies of it."""

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
    """
    probed = probe(model, image_shape)
    if layers is None:
        stages = _halvings(model, probed)
        if not stages:
            raise InputError(
                "no module was found after which the resolution of the feature map halves; pass "
                "layers, names of modules that return (B, C, H, W)"
            )
    else:
        stages = [_named(model, probed, name) for name in layers]
        if len({stage.name for stage in stages}) < max(1, len(stages)):
            raise InputError("layers is empty or names one twice; pass different names of modules")
    head, features = probed.head()
    return Staging(
        stages=tuple(stages),
        side=probed.deepest_side(),
        head=head,
        features=features,
        classes=probed.classes,
    )


def _halvings(model: nn.Module, probed: Probe) -> list[Stage]:
    """The last outputs before each halving, from as far outside of blocks as there are any."""
    depth = {stage.name: _blocks_around(model, stage.name) for stage, _ in probed.maps}
    for most in sorted(set(depth.values())):
        path = [stage for stage, _ in probed.maps if stage.name and depth[stage.name] <= most]
        stages = [
            before
            for before, after in itertools.pairwise(path)
            if after.side <= HALVED * before.side and before.side > probed.deepest_side()
        ]
        if stages:
            return stages[-MOST:]
    return []


def _blocks_around(model: nn.Module, name: str) -> int:
    """How many modules that are no mere containers lie between the model and a module."""
    parts = name.split(".")
    around = (".".join(parts[:i]) for i in range(1, len(parts)))
    return sum(not isinstance(model.get_submodule(outer), CONTAINERS) for outer in around)


def _named(model: nn.Module, probed: Probe, name: str) -> Stage:
    full, _ = find_module(model, name)
    outputs = [stage for stage, _ in probed.maps if stage.name == full]
    if not outputs:
        returned = probed.returned.get(full)
        what = f"returns {returned}" if returned else "is not called in a forward pass"
        raise InputError(f"layer {name!r} {what}; pass layers that return (B, C, H, W)")
    return Stage(full, -1, outputs[-1].channels, outputs[-1].side)
