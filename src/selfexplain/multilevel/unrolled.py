"""What unrolling a chain of levels gives: the hypergradient, and all that was computed for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from selfexplain.multilevel.variables import Variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrolled:
    """The hypergradient with its by-products, so that nobody computes them twice.

    Args:
        hypergradient: d outer / d wrt, in the shape of wrt.
        outer: the outer loss after all steps, a scalar.
        losses: name of each level -> its loss before its step, a scalar.
        gradients: name of each level -> gradient of that loss towards the level's own variable.
        stepped: name of each level -> its variable after its step.

    Everything is detached. Where several processes share a batch, losses are means over them.

    Example:
        >>> import torch
        >>> from selfexplain.multilevel import Level, unroll
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> unroll([level], lambda v: v["w"].square(), start, "a").outer
        tensor(2.2500)
    """

    hypergradient: Variable
    outer: Tensor
    losses: Mapping[str, Tensor]
    gradients: Mapping[str, Variable]
    stepped: Mapping[str, Variable]
