"""The gradient of an outer loss through a chain of one-step levels."""

from collections.abc import Callable, Sequence

from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.multilevel.exact import unroll_exact
from selfexplain.multilevel.level import Level, check_levels
from selfexplain.multilevel.mode import Mode
from selfexplain.multilevel.processes import ALONE, Processes
from selfexplain.multilevel.sweep import unroll_by_sweep
from selfexplain.multilevel.unrolled import Unrolled
from selfexplain.multilevel.variables import Variable, Variables


def hypergradient(
    levels: Sequence[Level],
    outer: Callable[[Variables], Tensor],
    variables: Variables,
    wrt: str,
    mode: Mode = "finite_difference",
    processes: Processes = ALONE,
) -> Variable:
    """d/d wrt of outer(all variables after each level has taken its one step, in order).

    Args:
        levels: one gradient step each; a level's loss sees its own variable and the stepped earlier
            ones, and whatever no level moves.
        outer: scalar; sees all stepped variables.
        variables: start value of every level's variable, of `wrt`, and of any constant.
        wrt: name of the variable whose gradient is wanted (an architecture, say).
        mode: `exact` differentiates through the whole chain; `inner_product` differentiates each
            level's step once, exactly too, whatever the depth; `finite_difference` (central) and
            `one_sided` need first derivatives only, so any loss that trains will do.
        processes: those that share the images of all losses; each gets the same gradient. Losses,
            but for levels that are not `shared`, and `outer` are means over each one's images.

    Returns:
        The gradient, in the shape of `variables[wrt]`. Nothing that was passed is changed.

    Raises:
        InputError: a name is missing or taken twice, a loss is no scalar, the mode is unknown, or
            (exact) there are several processes, or three levels or more and a loss that runs a
            fused BatchNorm that cannot be replaced.

    Example:
        >>> import torch
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> hypergradient([level], lambda v: v["w"].square(), start, "a", mode="exact")
        tensor(1.5000)
    """
    return unroll(levels, outer, variables, wrt, mode, processes).hypergradient


def unroll(
    levels: Sequence[Level],
    outer: Callable[[Variables], Tensor],
    variables: Variables,
    wrt: str,
    mode: Mode = "finite_difference",
    processes: Processes = ALONE,
) -> Unrolled:
    """The hypergradient together with each level's loss, gradient and stepped variable.

    A search that moves its weights along the same gradients need not compute them again. Arguments
    and errors are those of `hypergradient`.

    Example:
        >>> import torch
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> unroll([level], lambda v: v["w"].square(), start, "a").gradients["w"]
        tensor(-6.)
    """
    check_levels(levels, variables, wrt)
    if mode == "exact":
        if processes.count > 1:
            raise InputError(
                "mode exact differentiates through all levels at once, within one process; with "
                "several pass inner_product, which is exact too"
            )
        return unroll_exact(levels, outer, variables, wrt)
    if mode in ("finite_difference", "one_sided", "inner_product"):
        return unroll_by_sweep(levels, outer, variables, wrt, mode, processes=processes)
    raise InputError(f"mode is {mode!r}; pass finite_difference, one_sided, inner_product or exact")
