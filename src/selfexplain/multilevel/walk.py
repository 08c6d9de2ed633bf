"""The steps of a chain of levels, without anything carried back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from selfexplain.multilevel.level import Level, mean_gradient, unmoved
from selfexplain.multilevel.processes import ALONE, Processes
from selfexplain.multilevel.variables import Variable, Variables, detached


def walk(
    levels: Sequence[Level], variables: Variables, processes: Processes = ALONE
) -> tuple[dict[str, Tensor], dict[str, Variable], dict[str, Variable]]:
    """Let each level take its one step, in order.

    Returns:
        The losses before the steps, their gradients towards each level's own variable, and the
        stepped variables, by name of the level, detached.

    With several processes that share a batch, losses and gradients of shared variables are means.

    Example:
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> losses, gradients, stepped = walk([level], start)
        >>> losses["w"], gradients["w"], stepped["w"]
        (tensor(9.), tensor(-6.), tensor(1.5000))
    """
    seen = unmoved(levels, variables)
    losses: dict[str, Tensor] = {}
    found: dict[str, Variable] = {}
    for level in levels:
        own = variables[level.name]
        with torch.enable_grad():
            loss, gradient = level.gradient({**seen, level.name: own})
        losses[level.name], found[level.name] = mean_gradient(level, loss, gradient, processes)
        seen[level.name] = detached(level.moved(own, found[level.name]))
    return losses, found, {level.name: seen[level.name] for level in levels}
