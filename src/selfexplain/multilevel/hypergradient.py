"""The gradient of an outer loss through a chain of one-step levels."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.multilevel.exact import exact_hypergradient
from selfexplain.multilevel.finite_difference import finite_difference_hypergradient
from selfexplain.multilevel.level import Level, check_levels
from selfexplain.multilevel.variables import Variable, Variables

Mode = Literal["finite_difference", "exact"]


def hypergradient(
    levels: Sequence[Level],
    outer: Callable[[Variables], Tensor],
    variables: Variables,
    wrt: str,
    mode: Mode = "finite_difference",
) -> Variable:
    """d/d wrt of outer(all variables after each level has taken its one step, in order).

    Args:
        levels: one gradient step each; a level's loss sees its own variable and the stepped earlier
            ones, and whatever no level moves.
        outer: scalar; sees all stepped variables.
        variables: start value of every level's variable, of `wrt`, and of any constant.
        wrt: name of the variable whose gradient is wanted (an architecture, say).
        mode: `exact` differentiates through the whole chain; `finite_difference` needs first
            derivatives only, so any loss that trains will do.

    Returns:
        The gradient, in the shape of `variables[wrt]`. Nothing that was passed is changed.

    Raises:
        InputError: a name is missing or taken twice, a loss is no scalar, the mode is unknown, or
            (exact, three levels or more) a loss runs a fused BatchNorm.

    Example:
        >>> import torch
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> hypergradient([level], lambda v: v["w"].square(), start, "a", mode="exact")
        tensor(1.5000)
    """
    check_levels(levels, variables, wrt)
    if mode == "exact":
        return exact_hypergradient(levels, outer, variables, wrt)
    if mode == "finite_difference":
        return finite_difference_hypergradient(levels, outer, variables, wrt)
    raise InputError(f"mode is {mode!r}; pass finite_difference or exact")
