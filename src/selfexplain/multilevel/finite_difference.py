"""The hypergradient by one backward sweep over the levels, with differences for mixed products.

For a step v' = P(v + s g(v, x)) with g = grad_v loss and s = -lr or +lr, an adjoint a of v' reaches
everything else the loss saw, x, as

    s d/dx <grad_v loss(v, x), P'^T a>  =  s d/dr grad_x loss(v + r P'^T a, x)  at r = 0,

a mixed product of second derivatives that costs two gradients at v +- r P'^T a.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selfexplain.multilevel.level import Level, unmoved
from selfexplain.multilevel.variables import (
    Variable,
    Variables,
    each,
    fresh,
    gradients,
    leaves,
    like,
)

Adjoints = dict[str, tuple[Tensor, ...]]


def finite_difference_hypergradient(
    levels: Sequence[Level],
    outer: Callable[[Variables], Tensor],
    variables: Variables,
    wrt: str,
    radius: float | None = None,
) -> Variable:
    """D outer / d wrt, with central differences of first derivatives only.

    The error is of second order in the radius. Random numbers that a loss draws from torch's global
    CPU generator, or that of the current CUDA device, are the same in both halves of a difference
    and at the step itself.

    Args:
        levels: in the order of their steps.
        outer: scalar of all stepped variables.
        variables: start values.
        wrt: name of the variable whose gradient is wanted.
        radius: length |r v| of the displacement of a level's variable; None for twice the cube root
            of its rounding unit, where the errors of rounding and of curvature balance (0.01 in
            float32).

    Example:
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> finite_difference_hypergradient([level], lambda v: v["w"].square(), start, "a")
        tensor(1.5000)
    """
    seen = unmoved(levels, variables)
    views, unprojected, states = [], [], []
    with torch.enable_grad():
        for level in levels:
            views.append({**seen, level.name: variables[level.name]})
            states.append(_random_state())
            unprojected.append(each(torch.Tensor.detach, level.unprojected_step(views[-1])))
            seen[level.name] = each(torch.Tensor.detach, level.projected(unprojected[-1]))
        names = [*(level.name for level in levels), wrt]
        adjoints = _gradients_of(outer, seen, names)
        after = _random_state()
        for i in reversed(range(len(levels))):
            level, earlier = levels[i], [*(names[:i]), wrt]
            v = _pulled_back(level, unprojected[i], adjoints[level.name])
            product = _mixed_product(level, views[i], v, earlier, radius, states[i])
            for name in earlier:
                adjoints[name] = tuple(
                    a + level.signed_lr * p
                    for a, p in zip(adjoints[name], product[name], strict=True)
                )
        _set_random_state(after)
    return like(variables[wrt], adjoints[wrt])


def _gradients_of(
    function: Callable[[Variables], Tensor], seen: Variables, names: Sequence[str]
) -> Adjoints:
    """Gradients of a scalar function towards the named variables, in one backward pass."""
    free = {name: fresh(seen[name]) for name in names}
    everything = [tensor for name in names for tensor in leaves(free[name])]
    flat = {str(i): tensor for i, tensor in enumerate(everything)}
    found = iter(gradients(function({**seen, **free}), flat))
    return {name: tuple(next(found) for _ in leaves(free[name])) for name in names}


def _pulled_back(
    level: Level, unprojected: Variable, adjoint: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The adjoint of the projected variable, brought before the projection."""
    if level.project is None:
        return adjoint
    free = fresh(unprojected)
    pairs = zip(leaves(level.projected(free)), adjoint, strict=True)
    return gradients(torch.stack([(p * a).sum() for p, a in pairs]).sum(), free)


def _mixed_product(
    level: Level,
    view: Variables,
    v: tuple[Tensor, ...],
    names: Sequence[str],
    radius: float | None,
    state: list[Tensor],
) -> Adjoints:
    """d/dr grad_x loss(own + r v, x) for each named x, by a central difference."""
    length = float(torch.stack([t.square().sum() for t in v]).sum().sqrt())
    if length == 0:
        return {n: tuple(torch.zeros_like(t) for t in leaves(view[n])) for n in names}
    if radius is None:
        radius = 2 * float(torch.finfo(v[0].dtype).eps) ** (1 / 3)
    r = radius / length
    halves = []
    for sign in (r, -r):
        _set_random_state(state)
        pairs = zip(leaves(view[level.name]), v, strict=True)
        own = like(view[level.name], [t.detach() + sign * d for t, d in pairs])
        halves.append(_gradients_of(level.loss, {**view, level.name: own}, names))
    up, down = halves
    return {n: tuple((a - b) / (2 * r) for a, b in zip(up[n], down[n], strict=True)) for n in names}


def _random_state() -> list[Tensor]:
    """States of the global generators: the CPU's, and the current CUDA device's if in use."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])
