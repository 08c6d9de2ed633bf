"""The gradient of an outer loss through a chain of one-step levels."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from selfexplain.errors import InputError, first_line
from selfexplain.hypergradients import Mode
from selfexplain.hypergradients.batch_norm import ClosedBatchNorm
from selfexplain.hypergradients.exact import unroll_exact
from selfexplain.hypergradients.level import (
    SINGLE,
    Level,
    Products,
    Unrolled,
    Variable,
    Variables,
    World,
    average_shared,
    check_levels,
    check_scalar,
    constants,
    detached,
    each,
    fresh,
    leaves,
    like,
    mean_gradient,
)
from selfexplain.models.recompute import recompute
from selfexplain.seeding import random_state, set_random_state

# Mixed second derivatives of a level's loss times a vector, in four ways.
#
# With g(v, x) = grad_v loss(v, x) and a vector m in the shape of v, the product towards x is
#
#     d/dx <g(v, x), m>  =  d/dr grad_x loss(v + r m, x)  at r = 0.
#
# The left side is an inner product that is differentiated exactly, through the stored graph of the
# gradient. The right side is computed exactly, too, by dual numbers v + r m that are carried
# through one more gradient, without such a graph; or approximated by a difference of gradients,
# central (two more gradients, error of second order) or one-sided (one more, as the gradient at v
# is known, error of first order).
#
# Products leave out the variables that nothing depends on, as autograd tells from the graph without
# looking at a number: what they would be carried through is not computed. The same code runs in all
# processes, so all leave out the same.


def gradients_towards(
    function: Callable[[Variables], Tensor], seen: Variables, names: Sequence[str]
) -> tuple[Tensor, Products]:
    """A scalar function, and its gradients towards the named variables, in one backward pass.

    Variables that it does not depend on are left out.
    """
    return _gradients_towards(function, seen, {name: fresh(seen[name]) for name in names})


def _gradients_towards(
    function: Callable[[Variables], Tensor], seen: Variables, free: dict[str, Variable]
) -> tuple[Tensor, Products]:
    """The same for variables that are leaves of a graph already."""
    value = function({**seen, **free})
    check_scalar(value)
    return value.detach(), _pulled_towards([value], None, free)


def _pulled_towards(
    outputs: Sequence[Tensor],
    vector: Sequence[Tensor] | None,
    towards: Mapping[str, Variable],
    *,
    keep_graph: bool = False,
) -> Products:
    """<outputs, vector> differentiated towards each variable; those it is cut off from left out."""
    if vector is not None:
        pairs = zip(outputs, vector, strict=True)
        kept = [(output, along) for output, along in pairs if output.requires_grad]
        outputs, vector = [output for output, _ in kept], [along for _, along in kept]
    if not any(output.requires_grad for output in outputs):
        return {}
    found = iter(
        torch.autograd.grad(
            outputs,
            [t for variable in towards.values() for t in leaves(variable)],
            vector,
            retain_graph=keep_graph,
            allow_unused=True,
        )
    )
    products: Products = {}
    for name, variable in towards.items():
        reached = [(tensor, next(found)) for tensor in leaves(variable)]
        if any(gradient is not None for _, gradient in reached):
            products[name] = tuple(torch.zeros_like(t) if g is None else g for t, g in reached)
    return products


def default_radius(dtype: torch.dtype, *, one_sided: bool) -> float:
    """Length of a displacement at which errors of rounding and of curvature balance.

    Twice the cube root of the rounding unit for a central difference (0.01 in float32), twice its
    square root for a one-sided one (0.0007).
    """
    root = 1 / 2 if one_sided else 1 / 3
    return 2 * float(torch.finfo(dtype).eps ** root)


def square_sum(vector: Sequence[Tensor]) -> Tensor:
    """Sum of the squares of all entries."""
    return torch.stack([t.square().sum() for t in vector]).sum()


def known_length(squares: Tensor) -> float | Tensor:
    """The root of a sum of squares: a number on a CPU, elsewhere left where it is.

    Nobody waits for a GPU then, and a CUDA graph can hold what is computed of it.
    """
    length = squares.sqrt()
    return float(length) if length.device.type == "cpu" else length


def difference_product(
    loss: Callable[[Variables], Tensor],
    seen: Variables,
    own: str,
    vector: Sequence[Tensor],
    names: Sequence[str],
    at_start: Products | None = None,
    radius: float | None = None,
    length: float | Tensor | None = None,
    before_each: Callable[[], None] = lambda: None,
) -> Products:
    """d/dx <grad_own loss, vector> for each named x, by a difference of gradients.

    Args:
        loss: scalar of variables.
        seen: where.
        own: name of the variable that is displaced along the vector.
        vector: one tensor for each tensor of that variable.
        names: towards which variables; the displaced one may be among them.
        at_start: gradients at `seen`, for a one-sided difference; None for a central one.
        radius: length of the displacement; None for `default_radius`.
        length: that of the whole vector, if `vector` is this process's part of one.
        before_each: called before each evaluation of the loss (to set the random state).
    """
    if length is None:
        length = known_length(square_sum(vector))
    if isinstance(length, Tensor):
        length = length.clamp_min(torch.finfo(length.dtype).tiny)
    elif length == 0:
        return {n: tuple(torch.zeros_like(t) for t in leaves(seen[n])) for n in names}
    if radius is None:
        radius = default_radius(vector[0].dtype, one_sided=at_start is not None)
    r = radius / length

    def displaced(by: float | Tensor) -> Products:
        before_each()
        pairs = zip(leaves(seen[own]), vector, strict=True)
        at: Variable = like(seen[own], [t.detach() + by * d for t, d in pairs])
        return gradients_towards(loss, {**seen, own: at}, names)[1]

    up = displaced(r)
    down, width = (displaced(-r), 2 * r) if at_start is None else (at_start, r)
    found: Products = {}
    for name in names:
        if name in up or name in down:
            zeros = tuple(torch.zeros_like(t) for t in leaves(seen[name]))
            pairs = zip(up.get(name, zeros), down.get(name, zeros), strict=True)
            found[name] = tuple((a - b) / width for a, b in pairs)
    return found


def inner_product(
    gradient: Sequence[Tensor],
    vector: Sequence[Tensor],
    towards: dict[str, Variable],
    *,
    keep_graph: bool = False,
) -> Products:
    """d/dx <gradient, vector> for each x, exactly, of a gradient that was taken with its graph.

    The graph is kept for another product if asked.
    """
    return _pulled_towards(gradient, vector, towards, keep_graph=keep_graph)


def forward_product(
    loss: Callable[[Variables], Tensor],
    seen: Variables,
    own: str,
    vector: Sequence[Tensor],
    names: Sequence[str],
) -> Products:
    """d/dx <grad_own loss, vector> for each named x, exactly: forward mode over reverse mode.

    The variable `own` becomes dual, its tangent the vector; the gradients towards the named ones
    are then dual as well, and their tangents are what is asked for. One gradient of dual numbers,
    and no graph of a gradient. What such a gradient keeps is twice that of plain numbers; where a
    network has parts that can be computed again (mixed cells of supernets), less than a plain one.

    Raises:
        InputError: torch has no forward-mode derivative of an operation of the loss.
    """
    make_dual: Callable[..., Tensor] = forward_ad.make_dual
    with forward_ad.dual_level():
        pairs = zip(leaves(seen[own]), vector, strict=True)
        dual = like(seen[own], [make_dual(t.detach(), m.detach()) for t, m in pairs])
        free = {name: fresh(seen[name]) for name in names if name != own}
        if own in names:
            free[own] = dual = each(Tensor.requires_grad_, dual)  # a detached one has no tangent
        try:
            with recompute():
                _, found = _gradients_towards(loss, {**seen, own: dual}, free)
        except NotImplementedError as error:
            raise InputError(
                f"mode forward_over_reverse: torch cannot differentiate this loss in forward mode "
                f"({first_line(error)}); pass mode inner_product"
            ) from error
        return {name: tuple(map(_tangent, gradient)) for name, gradient in found.items()}


def _tangent(gradient: Tensor) -> Tensor:
    unpack_dual: Callable[..., Any] = forward_ad.unpack_dual
    tangent: Tensor | None = unpack_dual(gradient).tangent
    return torch.zeros_like(gradient) if tangent is None else tangent.detach()


# The hypergradient by one backward pass over the levels, one mixed product each.
#
# A step v' = M(v, g) with g = grad_v loss(v, x), where M is the move (direction, step size,
# projection). An adjoint a of v' becomes m = (dM/dg)^T a, an exact inner product that costs
# nothing, and reaches everything else that the loss saw as the mixed product d/dx <g(v, x), m>
# (above). Only first derivatives of the loss are needed for differences, second ones for
# inner products, however many levels there are. Where several processes share a batch, whatever a
# shared variable receives is averaged over them where it is made (docs/hypergradients.md).


@dataclass(kw_only=True)
class _Taken:
    """A level's step as it was taken."""

    level: Level
    seen: dict[str, Variable]
    """What its loss saw; with mode inner_product, leaves of the graph of `local_gradient`."""
    names: list[str]
    """The variables, besides its own, through which it depends on `wrt`: earlier ones, and it."""
    random_state: list[Tensor]
    loss: Tensor
    gradient: Variable
    """Along which the variable was updated."""
    local_gradient: Variable
    """The same of this process's images alone."""
    at_start: Products | None = None
    """Gradients towards `names`, with mode one_sided."""


def unroll_backward(
    levels: Sequence[Level],
    outers: Sequence[Callable[[Variables], Tensor]],
    variables: Variables,
    wrt: str,
    mode: Mode = "finite_difference",
    radius: float | None = None,
    processes: World = SINGLE,
) -> list[Unrolled]:
    """Unroll the levels, then carry each outer loss's adjoints back from the last to the first.

    Each level's loss is first called once at its start, in the order of the levels; then the outer
    losses; only then, with differences, at displaced values. Random numbers that a loss draws from
    torch's global CPU generator, or that of the current CUDA device, are the same in every one of
    its calls. `radius` is None for the levels' own, or else a default by precision.

    Returns:
        For each outer loss what `unroll` returns; the steps are taken once for all of them.
    """
    seen = constants(levels, variables)
    own = {level.name for level in levels if not level.shared}
    taken: list[_Taken] = []
    with torch.enable_grad():
        for level in levels:
            names = [*(t.level.name for t in taken), wrt]
            view = {**seen, level.name: variables[level.name]}
            taken.append(_take(level, view, names, mode, processes))
            seen[level.name] = detached(level.updated(variables[level.name], taken[-1].gradient))
        before = random_state()
        found = []
        for outer in outers:
            set_random_state(before)
            found.append(gradients_towards(outer, seen, [*(t.level.name for t in taken), wrt]))
        after = random_state()
        hypergradients = []
        for number, (_, adjoints) in enumerate(found):
            more = number + 1 < len(found)
            carried = _carried_back(taken, adjoints, own, mode, radius, processes, keep_graph=more)
            zeros = tuple(torch.zeros_like(t) for t in leaves(variables[wrt]))
            hypergradients.append(like(variables[wrt], carried.get(wrt, zeros)))
        set_random_state(after)
    values = processes.mean([value for value, _ in found])
    return [
        Unrolled(
            hypergradient=hypergradient,
            outer=value,
            losses={step.level.name: step.loss for step in taken},
            gradients={step.level.name: step.gradient for step in taken},
            stepped={level.name: seen[level.name] for level in levels},
        )
        for value, hypergradient in zip(values, hypergradients, strict=True)
    ]


def _carried_back(
    taken: Sequence[_Taken],
    adjoints: Products,
    own: Collection[str],
    mode: Mode,
    radius: float | None,
    processes: World,
    *,
    keep_graph: bool,
) -> Products:
    """Adjoints of the stepped variables -> those of all that the steps started from.

    A level whose variable has no adjoint is passed over.
    """
    adjoints = average_shared(adjoints, own, processes)
    for step in reversed(taken):
        if step.level.name not in adjoints:
            continue
        how = mode, radius, processes
        adjoint = _neumann_series(step, adjoints[step.level.name], *how)
        vector = _pulled_back(step, adjoint)
        product = _product(step, vector, step.names, *how, keep_graph=keep_graph)
        for name, found in average_shared(product, own, processes).items():
            before = adjoints.get(name)
            adjoints[name] = found if before is None else _sums(before, found)
    return adjoints


def _neumann_series(
    step: _Taken,
    adjoint: tuple[Tensor, ...],
    mode: Mode,
    radius: float | None,
    processes: World,
) -> tuple[Tensor, ...]:
    """Sum_k (I - lr H)^k of the adjoint of a level's variable, in as many terms as it says."""
    level = step.level
    total, term = adjoint, adjoint
    own = () if level.shared else (level.name,)
    for _ in range(level.neumann_terms - 1):
        pulled = _pulled_back(step, term)  # -lr times it, or + for a level that maximises
        product = _product(step, pulled, [level.name], mode, radius, processes, keep_graph=True)
        found = average_shared(product, own, processes).get(level.name)
        if found is not None:  # else H is zero, and all terms are alike
            term = _sums(term, found)
        total = _sums(total, term)
    return total


def _sums(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _take(
    level: Level,
    view: dict[str, Variable],
    names: list[str],
    mode: Mode,
    processes: World,
) -> _Taken:
    """The gradient of a level's step, and what its mixed product will need."""
    state = random_state()
    at_start = None
    if mode == "inner_product":
        view = view | {name: fresh(view[name]) for name in (*names, level.name)}
        # on a GPU, torch's own is as good: its passes over the features cost little there
        with ClosedBatchNorm(cpu_only=True):
            loss, gradient = level.gradient(view, create_graph=True)
    elif mode == "one_sided":
        loss, at_start = gradients_towards(level.loss, view, [level.name, *names])
        if level.name not in at_start:
            raise level.cut_off()
        loss, gradient = level.whole(view, loss, at_start[level.name])
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
    """The adjoint of the updated variable as one of the gradient it was updated along."""
    along = fresh(step.gradient)
    updated = leaves(step.level.updated(step.seen[step.level.name], along))
    return torch.autograd.grad(updated, leaves(along), adjoint)


def _product(
    step: _Taken,
    vector: tuple[Tensor, ...],
    names: Sequence[str],
    mode: Mode,
    radius: float | None,
    processes: World,
    *,
    keep_graph: bool,
) -> Products:
    """The mixed product of a level's step towards the named variables."""
    if mode == "inner_product":
        towards = {name: step.seen[name] for name in names}
        return inner_product(leaves(step.local_gradient), vector, towards, keep_graph=keep_graph)
    if mode == "forward_over_reverse":
        set_random_state(step.random_state)
        return forward_product(step.level.loss, step.seen, step.level.name, vector, names)
    # A variable of which each process has its own is displaced as one long vector.
    parts = 1 if step.level.shared else processes.count
    squares = square_sum(vector)
    if parts > 1:
        squares = parts * processes.mean([squares])[0]
    if radius is None and step.level.finite_difference_step is not None:
        radius = step.level.finite_difference_step * (parts * sum(t.numel() for t in vector)) ** 0.5
    return difference_product(
        step.level.loss,
        step.seen,
        step.level.name,
        vector,
        names,
        at_start=step.at_start,
        radius=radius,
        length=known_length(squares),
        before_each=lambda: set_random_state(step.random_state),
    )


def hypergradient(
    levels: Sequence[Level],
    outer: Callable[[Variables], Tensor],
    variables: Variables,
    wrt: str,
    mode: Mode = "finite_difference",
    processes: World = SINGLE,
) -> Variable:
    """d/d wrt of outer(all variables after each level has taken its one step, in order).

    Args:
        levels: one gradient step each; a level's loss sees its own variable and the stepped earlier
            ones, and whatever no level moves.
        outer: scalar; sees all stepped variables.
        variables: start value of every level's variable, of `wrt`, and of any constant.
        wrt: name of the variable whose gradient is wanted (an architecture, say).
        mode: `exact` differentiates through the whole chain; `inner_product` differentiates each
            level's step once, exactly too, whatever the depth; so does `forward_over_reverse`, by
            dual numbers in place of a stored graph: less memory; `finite_difference` (central) and
            `one_sided` need first derivatives only, so any loss that trains will do.
        processes: those that share the images of all losses; each gets the same gradient. Losses,
            but for levels that are not `shared`, and `outer` are means over each one's images.

    Returns:
        The gradient, in the shape of `variables[wrt]`. Nothing that was passed is changed.

    Raises:
        InputError: a name is missing or taken twice, a loss is no scalar, the mode is unknown, or
            (exact) there are several processes, a level has several `neumann_terms`, or there are
            three levels or more and a loss that runs a fused BatchNorm that cannot be replaced.

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
    processes: World = SINGLE,
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
    return unroll_each(levels, [outer], variables, wrt, mode, processes)[0]


def unroll_each(
    levels: Sequence[Level],
    outers: Sequence[Callable[[Variables], Tensor]],
    variables: Variables,
    wrt: str,
    mode: Mode = "finite_difference",
    processes: World = SINGLE,
) -> list[Unrolled]:
    """`unroll` for several outer losses at the same steps: the hypergradient of each alone.

    Their sum is the hypergradient of the sum. Each loss draws the same random numbers. Arguments
    and errors are otherwise those of `hypergradient`.

    Example:
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> through, direct = unroll_each(
        ...     [level], [lambda v: v["w"].square(), lambda v: 2 * v["a"]], start, "a"
        ... )
        >>> through.hypergradient, direct.hypergradient
        (tensor(1.5000), tensor(2.))
    """
    check_levels(levels, variables, wrt)
    if mode == "exact":
        if processes.count > 1:
            raise InputError(
                "mode exact differentiates through all levels at once, within one process; with "
                "several pass inner_product, which is exact too"
            )
        if series := [level.name for level in levels if level.neumann_terms > 1]:
            raise InputError(
                f"mode exact differentiates through the one step of each level, but level "
                f"{series[0]} has several neumann_terms; pass inner_product, which is exact too"
            )
        return unroll_exact(levels, outers, variables, wrt)
    if mode in get_args(Mode):
        return unroll_backward(levels, outers, variables, wrt, mode, processes=processes)
    raise InputError(f"mode is {mode!r}; pass one of {', '.join(get_args(Mode))}")
