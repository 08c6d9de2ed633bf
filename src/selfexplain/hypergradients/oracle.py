"""The hypergradient by brute force: differences of the whole composed map, in float64.

Slow and plain; the tests compare both modes with it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selfexplain.hypergradients.level import Level, Variable, Variables, constants, leaves, like


def composed(
    levels: Sequence[Level], outer: Callable[[Variables], Tensor], variables: Variables
) -> Tensor:
    """Outer after every level's step, as a function of the start values."""
    seen = constants(levels, variables)
    for level in levels:
        seen[level.name] = level.step({**seen, level.name: variables[level.name]})
    return outer(seen).detach()


def brute_force_hypergradient(
    levels: Sequence[Level],
    outer: Callable[[Variables], Tensor],
    variables: Variables,
    wrt: str,
    step: float = 1e-3,
) -> Variable:
    """Fourth-order central differences of `composed`, one entry of `wrt` at a time.

    Example:
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0).double(), "a": torch.tensor(3.0).double()}
        >>> brute_force_hypergradient([level], lambda v: v["w"].square(), start, "a")
        tensor(1.5000, dtype=torch.float64)
    """
    found = []
    for which, tensor in enumerate(leaves(variables[wrt])):
        gradient = torch.zeros_like(tensor)
        for entry in range(tensor.numel()):

            def value(by: float, which: int = which, entry: int = entry) -> Tensor:
                updated = [t.detach().clone() for t in leaves(variables[wrt])]
                updated[which].view(-1)[entry] += by
                return composed(levels, outer, {**variables, wrt: like(variables[wrt], updated)})

            near, far = value(step) - value(-step), value(2 * step) - value(-2 * step)
            gradient.view(-1)[entry] = (8 * near - far) / (12 * step)
        found.append(gradient)
    return like(variables[wrt], found)
