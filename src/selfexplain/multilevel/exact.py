"""The hypergradient by differentiating through the whole chain of steps (reverse over reverse)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.multilevel.level import Level, unmoved
from selfexplain.multilevel.variables import Variable, Variables, fresh, gradients, like

FUSED_BATCH_NORM = ("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNormImpl")
"""Autograd nodes whose third derivatives are wrong in training mode (pytorch issue 186256)."""


def exact_hypergradient(
    levels: Sequence[Level],
    outer: Callable[[Variables], Tensor],
    variables: Variables,
    wrt: str,
) -> Variable:
    """D outer / d wrt, through every step, by automatic differentiation.

    Its cost and memory grow with the number of levels, as each step's graph is kept.

    Raises:
        InputError: there are three levels or more and a level's loss runs a fused BatchNorm, whose
            third derivatives are silently wrong.

    Example:
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> exact_hypergradient([level], lambda v: v["w"].square(), start, "a")  # w' = a / 2
        tensor(1.5000)
    """
    target = fresh(variables[wrt])
    seen = unmoved(levels, variables) | {wrt: target}
    with torch.enable_grad():
        for level in map(_guarded, levels) if len(levels) > 2 else levels:
            own = fresh(variables[level.name])
            seen[level.name] = level.step({**seen, level.name: own}, create_graph=True)
        return like(target, gradients(outer(seen), target))


def _guarded(level: Level) -> Level:
    """The level with a loss that refuses a fused BatchNorm by name."""

    def loss(seen: Variables) -> Tensor:
        value = level.loss(seen)
        if name := _fused_batch_norm(value.grad_fn):
            raise InputError(
                f"the loss of level {level.name} runs {name}, whose third derivatives are wrong; "
                "use a BatchNorm of primitive operations, mode='finite_difference', or two levels"
            )
        return value

    return Level(level.name, loss, level.lr, level.maximize, level.project)


def _fused_batch_norm(root: Any) -> str | None:
    """Name of the first fused BatchNorm in a graph."""
    todo, visited = [root], set()
    while todo:
        node = todo.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if any(name in node.name() for name in FUSED_BATCH_NORM):
            return str(node.name())
        todo.extend(following for following, _ in node.next_functions)
    return None
