"""The hypergradient by one backward sweep over the levels, one mixed product each.

A step v' = M(v, g) with g = grad_v loss(v, x), where M is the move (direction, step size,
projection). An adjoint a of v' becomes m = (dM/dg)^T a, an exact inner product that costs nothing,
and reaches everything else that the loss saw as the mixed product d/dx <g(v, x), m> (products.py).
Only first derivatives of the loss are needed for differences, second ones for inner products,
however many levels there are. Where several processes share a batch, whatever a shared variable
receives is averaged over them where it is made (docs/multilevel.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfexplain.multilevel.level import Level, mean_gradient, unmoved
from selfexplain.multilevel.processes import (
    ALONE,
    Processes,
    Products,
    average_shared,
)
from selfexplain.multilevel.products import (
    difference_product,
    gradients_towards,
    inner_product,
    square_sum,
)
from selfexplain.multilevel.random_state import random_state, set_random_state
from selfexplain.multilevel.unrolled import Unrolled
from selfexplain.multilevel.variables import (
    Variable,
    Variables,
    detached,
    fresh,
    gradients,
    leaves,
    like,
)

SweepMode = Literal["finite_difference", "one_sided", "inner_product"]


@dataclass(kw_only=True)
class _Taken:
    """A level's step as it was taken."""

    level: Level
    seen: dict[str, Variable]
    """What its loss saw; with mode inner_product, leaves of the graph of `local_gradient`."""
    names: list[str]
    """The variables, beside its own, through which it depends on `wrt`: earlier ones, and it."""
    random_state: list[Tensor]
    loss: Tensor
    gradient: Variable
    """Along which the variable moved."""
    local_gradient: Variable
    """The same of this process's images alone."""
    at_start: Products | None = None
    """Gradients towards `names`, with mode one_sided."""


def unroll_by_sweep(
    levels: Sequence[Level],
    outer: Callable[[Variables], Tensor],
    variables: Variables,
    wrt: str,
    mode: SweepMode = "finite_difference",
    radius: float | None = None,
    processes: Processes = ALONE,
) -> Unrolled:
    """Unroll the levels, then carry the adjoints back from the last to the first.

    Each level's loss is first called once at its start, in the order of the levels; then `outer`;
    only then, with differences, at displaced values. Random numbers that a loss draws from torch's
    global CPU generator, or that of the current CUDA device, are the same in every one of its
    calls.

    Args:
        levels: in the order of their steps.
        outer: scalar of all stepped variables.
        variables: start values.
        wrt: name of the variable whose gradient is wanted.
        mode: how mixed products are made; see products.py.
        radius: length of the displacement of every level's variable; None for the level's own, or
            else a default by precision.
        processes: those that share the images of all losses.

    Example:
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> unroll_by_sweep([level], lambda v: v["w"].square(), start, "a").hypergradient
        tensor(1.5000)
    """
    seen = unmoved(levels, variables)
    own = {level.name for level in levels if not level.shared}
    taken: list[_Taken] = []
    with torch.enable_grad():
        for level in levels:
            names = [*(t.level.name for t in taken), wrt]
            view = {**seen, level.name: variables[level.name]}
            taken.append(_take(level, view, names, mode, processes))
            seen[level.name] = detached(level.moved(variables[level.name], taken[-1].gradient))
        value, adjoints = gradients_towards(outer, seen, [*(t.level.name for t in taken), wrt])
        (value,) = processes.mean([value])
        adjoints = average_shared(adjoints, own, processes)
        after = random_state()
        for step in reversed(taken):
            vector = _pulled_back(step, adjoints[step.level.name])
            product = _product(step, vector, mode, radius, processes)
            for name, found in average_shared(product, own, processes).items():
                adjoints[name] = tuple(a + p for a, p in zip(adjoints[name], found, strict=True))
        set_random_state(after)
    return Unrolled(
        hypergradient=like(variables[wrt], adjoints[wrt]),
        outer=value,
        losses={step.level.name: step.loss for step in taken},
        gradients={step.level.name: step.gradient for step in taken},
        stepped={level.name: seen[level.name] for level in levels},
    )


def _take(
    level: Level,
    view: dict[str, Variable],
    names: list[str],
    mode: SweepMode,
    processes: Processes,
) -> _Taken:
    """The gradient of a level's step, and what its mixed product will need."""
    state = random_state()
    at_start = None
    if mode == "inner_product":
        view = view | {name: fresh(view[name]) for name in (*names, level.name)}
        loss, gradient = level.gradient(view, create_graph=True)
    elif mode == "one_sided":
        loss, at_start = gradients_towards(level.loss, view, [level.name, *names])
        gradient = like(view[level.name], at_start.pop(level.name))
    else:
        loss, gradient = level.gradient(view)
    mean_loss, mean = mean_gradient(level, loss, gradient, processes)
    return _Taken(
        level=level,
        seen=view,
        names=names,
        random_state=state,
        loss=mean_loss,
        gradient=mean,
        local_gradient=gradient,
        at_start=at_start,
    )


def _pulled_back(step: _Taken, adjoint: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The adjoint of the moved variable as one of the gradient it was moved along."""
    along = fresh(step.gradient)
    moved = leaves(step.level.moved(step.seen[step.level.name], along))
    pairs = zip(moved, adjoint, strict=True)
    return gradients(torch.stack([(v * a).sum() for v, a in pairs]).sum(), along)


def _product(
    step: _Taken,
    vector: tuple[Tensor, ...],
    mode: SweepMode,
    radius: float | None,
    processes: Processes,
) -> Products:
    if mode == "inner_product":
        towards = {name: step.seen[name] for name in step.names}
        return inner_product(leaves(step.local_gradient), vector, towards)
    # A variable of which each process has its own is displaced as one long vector.
    parts = 1 if step.level.shared else processes.count
    squares = square_sum(vector)
    if parts > 1:
        squares = parts * processes.mean([squares])[0]
    if radius is None and step.level.displacement is not None:
        radius = step.level.displacement * (parts * sum(t.numel() for t in vector)) ** 0.5
    return difference_product(
        step.level.loss,
        step.seen,
        step.level.name,
        vector,
        step.names,
        at_start=step.at_start,
        radius=radius,
        length=float(squares.sqrt()),
        before_each=lambda: set_random_state(step.random_state),
    )
