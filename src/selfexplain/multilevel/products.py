"""Mixed second derivatives of a level's loss times a vector, in three ways.

With g(v, x) = grad_v loss(v, x) and a vector m in the shape of v, the product towards x is

    d/dx <g(v, x), m>  =  d/dr grad_x loss(v + r m, x)  at r = 0.

The left side is an inner product that is differentiated exactly; the right side is approximated by
a difference of gradients, central (two more gradients, error of second order) or one-sided (one
more, as the gradient at v is known, error of first order).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from selfexplain.multilevel.processes import Products
from selfexplain.multilevel.variables import Variable, Variables, fresh, gradients, leaves, like

Difference = Literal["finite_difference", "one_sided"]


def gradients_towards(
    function: Callable[[Variables], Tensor], seen: Variables, names: Sequence[str]
) -> tuple[Tensor, Products]:
    """A scalar function, and its gradients towards the named variables, in one backward pass.

    Example:
        >>> seen = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
        >>> gradients_towards(lambda v: v["a"] * v["b"], seen, ["a"])
        (tensor(6.), {'a': (tensor(3.),)})
    """
    free = {name: fresh(seen[name]) for name in names}
    flat = {str(i): t for i, t in enumerate(t for name in names for t in leaves(free[name]))}
    value = function({**seen, **free})
    found = iter(gradients(value, flat))
    return value.detach(), {name: tuple(next(found) for _ in leaves(free[name])) for name in names}


def default_radius(mode: Difference, dtype: torch.dtype) -> float:
    """Length of a displacement at which errors of rounding and of curvature balance.

    Twice the cube root of the rounding unit for a central difference (0.01 in float32), twice its
    square root for a one-sided one (0.0007).

    Example:
        >>> round(default_radius("finite_difference", torch.float32), 4)
        0.0098
    """
    root = 1 / 3 if mode == "finite_difference" else 1 / 2
    return 2 * float(torch.finfo(dtype).eps ** root)


def square_sum(vector: Sequence[Tensor]) -> Tensor:
    """Sum of the squares of all entries.

    Example:
        >>> square_sum([torch.tensor([1.0, 2.0]), torch.tensor(3.0)])
        tensor(14.)
    """
    return torch.stack([t.square().sum() for t in vector]).sum()


def difference_product(
    loss: Callable[[Variables], Tensor],
    seen: Variables,
    own: str,
    vector: Sequence[Tensor],
    names: Sequence[str],
    at_start: Products | None = None,
    radius: float | None = None,
    length: float | None = None,
    before_each: Callable[[], None] = lambda: None,
) -> Products:
    """d/dx <grad_own loss, vector> for each named x, by a difference of gradients.

    Args:
        loss: scalar of variables.
        seen: where.
        own: name of the variable that is displaced along the vector.
        vector: one tensor for each tensor of that variable.
        names: towards which variables.
        at_start: gradients towards them at `seen`, for a one-sided difference; None for a central
            one.
        radius: length of the displacement; None for `default_radius`.
        length: that of the whole vector, if `vector` is this process's part of one; None for its
            own.
        before_each: called before each evaluation of the loss (to set the random state).

    Example:
        >>> seen = {"w": torch.tensor(2.0), "a": torch.tensor(3.0)}
        >>> found = difference_product(
        ...     lambda v: v["w"] * v["a"] ** 2, seen, "w", [torch.tensor(1.0)], ["a"]
        ... )
        >>> round(found["a"][0].item(), 3)  # d a^2 / da
        6.0
    """
    length = float(square_sum(vector).sqrt()) if length is None else length
    if length == 0:
        return {n: tuple(torch.zeros_like(t) for t in leaves(seen[n])) for n in names}
    if radius is None:
        mode: Difference = "finite_difference" if at_start is None else "one_sided"
        radius = default_radius(mode, vector[0].dtype)
    r = radius / length

    def displaced(by: float) -> Products:
        before_each()
        pairs = zip(leaves(seen[own]), vector, strict=True)
        at: Variable = like(seen[own], [t.detach() + by * d for t, d in pairs])
        return gradients_towards(loss, {**seen, own: at}, names)[1]

    up = displaced(r)
    down, width = (displaced(-r), 2 * r) if at_start is None else (at_start, r)
    return {n: tuple((a - b) / width for a, b in zip(up[n], down[n], strict=True)) for n in names}


def inner_product(
    gradient: Sequence[Tensor],
    vector: Sequence[Tensor],
    towards: dict[str, Variable],
) -> Products:
    """d/dx <gradient, vector> for each x, exactly, of a gradient that was taken with its graph.

    Example:
        >>> w, a = (torch.tensor(t, requires_grad=True) for t in (2.0, 3.0))
        >>> (g,) = torch.autograd.grad(w * a**2, w, create_graph=True)
        >>> inner_product([g], [torch.tensor(1.0)], {"a": a})
        {'a': (tensor(6.),)}
    """
    scalar = torch.stack([(g * m).sum() for g, m in zip(gradient, vector, strict=True)]).sum()
    flat = {str(i): t for i, t in enumerate(t for v in towards.values() for t in leaves(v))}
    found = iter(gradients(scalar, flat))
    return {name: tuple(next(found) for _ in leaves(v)) for name, v in towards.items()}
