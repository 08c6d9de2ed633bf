"""The hypergradient by differentiating through the whole chain of steps (reverse over reverse)."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.hypergradients.batch_norm import ClosedBatchNorm
from selfexplain.hypergradients.level import (
    Level,
    Unrolled,
    Variables,
    constants,
    detached,
    fresh,
    gradients,
    like,
)
from selfexplain.seeding import random_state, set_random_state

FUSED_BATCH_NORM = ("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNormImpl")
"""Autograd nodes whose third derivatives are wrong in training mode (pytorch issue 186256)."""


def unroll_exact(
    levels: Sequence[Level],
    outers: Sequence[Callable[[Variables], Tensor]],
    variables: Variables,
    wrt: str,
) -> list[Unrolled]:
    """Unroll the levels and differentiate through every step, by automatic differentiation.

    The steps are taken once for all outer losses, which draw the same random numbers. Cost and
    memory grow with the number of levels, as each step's graph is kept. From three levels on,
    BatchNorm in training mode is computed with right derivatives of every order (batch_norm.py):
    each loss is differentiated twice at most, where the fused one is right, too, unless a loss
    holds a gradient itself.

    Raises:
        InputError: there are three levels or more and a level's loss nevertheless runs a fused
            BatchNorm (one that was compiled, say), whose third derivatives are silently wrong.
    """
    target = fresh(variables[wrt])
    seen = constants(levels, variables) | {wrt: target}
    losses, found = {}, {}
    deep = len(levels) > 2
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        if deep:
            stack.enter_context(ClosedBatchNorm())
        for level in levels:
            own = fresh(variables[level.name])
            view = {**seen, level.name: own}
            losses[level.name], gradient = level.gradient(view, create_graph=True)
            if deep:
                _check_no_fused_batch_norm(level.name, losses[level.name])
            found[level.name] = gradient
            seen[level.name] = level.updated(own, gradient)
        hypergradients, values = [], []
        before = random_state()
        for number, outer in enumerate(outers):
            set_random_state(before)
            value = outer(seen)
            more = number + 1 < len(outers)
            hypergradients.append(like(target, gradients(value, target, retain_graph=more)))
            values.append(value.detach())
    return [
        Unrolled(
            hypergradient=hypergradient,
            outer=value,
            losses={name: loss.detach() for name, loss in losses.items()},
            gradients={name: detached(gradient) for name, gradient in found.items()},
            stepped={level.name: detached(seen[level.name]) for level in levels},
        )
        for value, hypergradient in zip(values, hypergradients, strict=True)
    ]


def _check_no_fused_batch_norm(level: str, loss: Tensor) -> None:
    if name := _fused_batch_norm(loss.grad_fn):
        raise InputError(
            f"the loss of level {level} runs {name}, whose third derivatives are wrong; "
            "use a BatchNorm of primitive operations, another mode, or two levels"
        )


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
