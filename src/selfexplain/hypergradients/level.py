"""A level: a variable that takes one gradient step on a loss of its own."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from selfexplain.errors import InputError

# A variable is a tensor or a dict of tensors; here it is seen as a flat tuple of tensors.


Variable = Tensor | dict[str, Tensor]
"""One level's variable: a tensor, or tensors by name (a module's parameters)."""
Variables = Mapping[str, Variable]
"""Variables by name."""


def leaves(variable: Variable) -> tuple[Tensor, ...]:
    """The tensors of a variable, in order.

    Example:
        >>> len(leaves({"weight": torch.zeros(2), "bias": torch.zeros(1)}))
        2
    """
    return tuple(variable.values()) if isinstance(variable, dict) else (variable,)


def like(variable: Variable, tensors: Sequence[Tensor]) -> Variable:
    """The tensors in the form of the variable.

    Example:
        >>> like({"a": torch.zeros(1)}, [torch.ones(1)])
        {'a': tensor([1.])}
    """
    if isinstance(variable, dict):
        return dict(zip(variable, tensors, strict=True))
    return tensors[0]


def each(function: Callable[[Tensor], Tensor], variable: Variable) -> Variable:
    """A function of each tensor, in the form of the variable."""
    return like(variable, [function(tensor) for tensor in leaves(variable)])


def detached(variable: Variable) -> Variable:
    """The same values without a graph."""
    return each(Tensor.detach, variable)


def fresh(variable: Variable) -> Variable:
    """The same values as new leaves of a graph that want gradients."""
    return each(lambda tensor: tensor.detach().requires_grad_(), variable)


def gradients(
    scalar: Tensor, variable: Variable, *, create_graph: bool = False, retain_graph: bool = False
) -> tuple[Tensor, ...]:
    """Gradient of a scalar towards each tensor of a variable; zeros where it does not depend on it.

    Raises:
        InputError: the scalar is none.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> gradients(x * x, x)
        (tensor(6.),)
    """
    check_scalar(scalar)
    if not scalar.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in leaves(variable))
    found = torch.autograd.grad(
        scalar,
        leaves(variable),
        create_graph=create_graph,
        retain_graph=retain_graph or create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return tuple(found)


def check_scalar(loss: Tensor) -> None:
    """Raise InputError unless a loss is one number."""
    if loss.numel() != 1:
        raise InputError(f"a loss has shape {tuple(loss.shape)}; return a scalar")


# Several processes that share a batch: each computes on its part, what they share is averaged.
#
# The package itself does not communicate. A caller with several processes passes how to average
# over them; training/processes.py does so with torch.distributed.


Products = dict[str, tuple[Tensor, ...]]
"""Name of a variable -> one tensor for each of its tensors."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes that compute one step together, each on an equal share of the images.

    Args:
        rank: number of this process, from 0.
        count: how many there are.
        mean: tensors -> their means over all processes, in the same order and shapes; called by all
            of them at the same points. Every process must get the same bits.

    Example:
        >>> import torch
        >>> World().mean([torch.tensor(2.0)])
        (tensor(2.),)
    """

    rank: int = 0
    count: int = 1
    mean: Callable[[Sequence[Tensor]], tuple[Tensor, ...]] = tuple


SINGLE = World()
"""One process, with all images to itself."""


def averaged(scalar: Tensor, variable: Variable, processes: World) -> tuple[Tensor, Variable]:
    """Means over the processes of a scalar and of a variable."""
    first, *rest = processes.mean([scalar, *leaves(variable)])
    return first, like(variable, rest)


def average_shared(products: Products, own: Collection[str], processes: World) -> Products:
    """Products averaged over the processes, but for the variables in `own`, which differ."""
    shared = [name for name in products if name not in own]
    if not shared:
        return products
    means = iter(processes.mean([t for name in shared for t in products[name]]))
    return products | {name: tuple(next(means) for _ in products[name]) for name in shared}


@dataclass(frozen=True, slots=True)
class Level:
    """v' = project(v - lr direction(grad_v loss)), or + for a level that maximises.

    Args:
        name: of the level's variable.
        loss: scalar of a mapping name -> variable that holds this level's own variable at its start
            value, the earlier levels' stepped ones, and everything that no level moves.
        lr: size of the one step that stands for the level's argmin (as DARTS does): a number, or a
            scalar in the device's memory.
        maximize: step uphill.
        project: smooth map of the stepped variable, tensor by tensor.
        direction: smooth map of the gradient before the step, tensor by tensor (its normalisation,
            say); None for the gradient itself.
        finite_difference_step: root mean square, over the variable's entries and in their units,
            of the displacement that a difference makes; None for a small one by precision, right
            for smooth losses. The gradient of a network with ReLUs jumps wherever a unit switches,
            and a small displacement then measures where the jumps happen to be; see
            docs/hypergradients.md.
        independent_loss: a further term of the loss that sees neither another level's variable nor
            the one that the hypergradient is taken towards (the audience's loss on plain images):
            its gradient is part of the step, and no mixed product looks at it.
        neumann_terms: what stands for the derivative of the level's argmin. 1: that of the one
            step, -lr d/dx grad_v loss. K: the first K terms of the Neumann series of the implicit
            derivative, -lr sum_k (I - lr H)^k d/dx grad_v loss with H the loss's Hessian in v; at a
            minimum it is that of K steps. The step that is taken is the same.
        shared: where several processes share a batch, whether all hold the same variable (weights).
            Then its loss is a mean over the images, and its step goes along the mean gradient. Else
            each process has its own (a perturbation of its images), and its loss is a sum over the
            images, with a direction and a projection that do not mix them.

    Example:
        >>> import torch
        >>> level = Level("weight", lambda v: (v["weight"] - v["goal"]).square().sum(), lr=0.5)
        >>> level.step({"weight": torch.zeros(2), "goal": torch.ones(2)})
        tensor([1., 1.])
    """

    name: str
    loss: Callable[[Variables], Tensor]
    lr: float | Tensor
    maximize: bool = False
    project: Callable[[Tensor], Tensor] | None = None
    direction: Callable[[Tensor], Tensor] | None = None
    finite_difference_step: float | None = None
    independent_loss: Callable[[Variables], Tensor] | None = None
    neumann_terms: int = 1
    shared: bool = True

    def __post_init__(self) -> None:
        """Refuse a series that nothing carries."""
        if self.neumann_terms < 1:
            raise InputError(
                f"neumann_terms of level {self.name} is {self.neumann_terms}; pass at least 1"
            )
        if self.neumann_terms == 1:
            return
        if self.direction is not None or self.project is not None:
            raise InputError(
                f"level {self.name} has a direction or a projection, and the series of its "
                "neumann_terms is that of plain gradient steps; leave out one of the two"
            )
        if self.independent_loss is not None:
            raise InputError(
                f"the series of level {self.name} needs second derivatives of the whole loss; make "
                "its independent_loss a part of loss, or pass neumann_terms 1"
            )

    def gradient(self, seen: Variables, *, create_graph: bool = False) -> tuple[Tensor, Variable]:
        """The loss, and its gradient towards the level's own variable.

        Returns:
            The loss, a scalar; and a variable in the form of the level's own, with a graph back to
            all that the loss saw if asked.
        """
        own = seen[self.name]
        if not all(tensor.requires_grad for tensor in leaves(own)):
            own = fresh(own)
        loss = self.loss({**seen, self.name: own})
        if not loss.requires_grad:
            raise self.cut_off()
        return self.whole(seen, loss, gradients(loss, own, create_graph=create_graph))

    def cut_off(self) -> InputError:
        """The error of a loss that does not depend on the level's own variable."""
        return InputError(
            f"the loss of level {self.name} is cut off from its variable; compute it from "
            f"variables[{self.name!r}], with gradients enabled"
        )

    def whole(
        self, seen: Variables, loss: Tensor, gradient: Sequence[Tensor]
    ) -> tuple[Tensor, Variable]:
        """The loss and its gradient with those of the independent term, which have no graph."""
        own = seen[self.name]
        if self.independent_loss is None:
            return loss, like(own, gradient)
        own = fresh(own)
        value = self.independent_loss({**seen, self.name: own})
        pairs = zip(gradient, gradients(value, own), strict=True)
        return loss + value.detach(), like(own, [a + b for a, b in pairs])

    def updated(self, own: Variable, gradient: Variable) -> Variable:
        """The level's own variable after a step along a gradient, within its constraint."""
        return like(
            own, [self._updated(v, g) for v, g in zip(leaves(own), leaves(gradient), strict=True)]
        )

    def step(self, seen: Variables, *, create_graph: bool = False) -> Variable:
        """The stepped variable; with a graph back to all that the loss saw if asked."""
        _, gradient = self.gradient(seen, create_graph=create_graph)
        return self.updated(seen[self.name], gradient)

    def _updated(self, v: Tensor, gradient: Tensor) -> Tensor:
        along = gradient if self.direction is None else self.direction(gradient)
        stepped = v.detach() + (self.lr if self.maximize else -self.lr) * along
        return stepped if self.project is None else self.project(stepped)


def mean_gradient(
    level: Level, loss: Tensor, gradient: Variable, processes: World
) -> tuple[Tensor, Variable]:
    """A level's loss, and the gradient its variable moves along, from those of each process.

    Both are means over the processes, without a graph; the gradient towards a variable of which
    each process has its own is left as it is.
    """
    loss, gradient = loss.detach(), detached(gradient)
    if level.shared:
        return averaged(loss, gradient, processes)
    return processes.mean([loss])[0], gradient


def constants(levels: Sequence[Level], variables: Variables) -> dict[str, Variable]:
    """The variables that no level moves: what the first level sees besides its own.

    Example:
        >>> import torch
        >>> level = Level("w", torch.sum, 0.1)
        >>> list(constants([level], {"w": torch.ones(1), "a": torch.ones(1)}))
        ['a']
    """
    updated = {level.name for level in levels}
    return {name: variable for name, variable in variables.items() if name not in updated}


def check_levels(levels: Sequence[Level], variables: Mapping[str, Variable], wrt: str) -> None:
    """Raise InputError unless every level has a variable of its own and `wrt` is another."""
    names = [level.name for level in levels]
    if len(set(names)) != len(names):
        raise InputError(f"levels {', '.join(names)} share a name; give each a variable of its own")
    for name in (*names, wrt):
        if name not in variables:
            known = ", ".join(variables)
            raise InputError(f"there is no variable {name!r}; pass it among variables ({known})")
    if wrt in names:
        raise InputError(f"wrt is {wrt!r}, which a level moves; pass another variable")


# A module as a function of its parameters, for use in the losses of levels.


Function = Callable[..., Any]
"""Of a variable that holds the parameters by name, then the module's own arguments."""


def as_function(module: nn.Module, buffers: Mapping[str, Tensor] | None = None) -> Function:
    """The module as a function of its parameters that leaves no trace.

    Buffers (BatchNorm's running statistics, say) are read from copies, and copied anew for each
    call, so that calls at displaced parameters neither see nor change what another call left.

    Args:
        module: in the mode in which it is to run.
        buffers: to begin each call with; None for the module's own.

    Returns:
        A function (parameters, *arguments) -> what the module returns; parameters is a dict of
        tensors by name, any of which may be missing if the module's own are to be used.

    Example:
        >>> import torch
        >>> linear = nn.Linear(2, 1)
        >>> ones = {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}
        >>> as_function(linear)(ones, torch.tensor([[1.0, 2.0]]))
        tensor([[3.]])
    """
    own = dict(module.named_buffers()) if buffers is None else dict(buffers)

    def function(parameters: Variable, *arguments: Any) -> Any:
        if not isinstance(parameters, dict):
            raise TypeError("a module's parameters are a dict of tensors by name")
        copies = {name: buffer.detach().clone() for name, buffer in own.items()}
        return functional_call(module, {**copies, **parameters}, arguments)

    return function


# The steps of a chain of levels, without anything carried back.


def take_steps(
    levels: Sequence[Level], variables: Variables, processes: World = SINGLE
) -> tuple[dict[str, Tensor], dict[str, Variable], dict[str, Variable]]:
    """Let each level take its one step, in order.

    Returns:
        The losses before the steps, their gradients towards each level's own variable, and the
        stepped variables, by name of the level, detached.

    With several processes that share a batch, losses and gradients of shared variables are means.

    Example:
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> losses, gradients, stepped = take_steps([level], start)
        >>> losses["w"], gradients["w"], stepped["w"]
        (tensor(9.), tensor(-6.), tensor(1.5000))
    """
    seen = constants(levels, variables)
    losses: dict[str, Tensor] = {}
    found: dict[str, Variable] = {}
    for level in levels:
        own = variables[level.name]
        with torch.enable_grad():
            loss, gradient = level.gradient({**seen, level.name: own})
        losses[level.name], found[level.name] = mean_gradient(level, loss, gradient, processes)
        seen[level.name] = detached(level.updated(own, found[level.name]))
    return losses, found, {level.name: seen[level.name] for level in levels}


# Whether numbers are numbers still.


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity; one transfer for all of them.

    Args:
        tensors: at least one, all on one device.

    Example:
        >>> all_finite([torch.ones(2), torch.tensor(float("nan"))])
        False
    """
    return bool(finite(tensors))


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """The same as a tensor () on their device, for which nobody waits.

    Args:
        tensors: at least one of floating point, none of those empty, all on one device.

    Example:
        >>> finite([torch.ones(2), torch.tensor(float("nan"))])
        tensor(False)
    """
    # The largest absolute values: hundreds of small tensors take a few calls on a GPU.
    floats = [t.detach() for t in tensors if t.is_floating_point()]  # others always are
    largest = torch._foreach_norm(floats, math.inf)  # noqa: SLF001
    return torch.stack([t.float() for t in largest]).isfinite().all()


# What unrolling a chain of levels gives: the hypergradient, and all that was computed for it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrolled:
    """The hypergradient with its by-products, so that they are not computed twice.

    Args:
        hypergradient: d outer / d wrt, in the shape of wrt.
        outer: the outer loss after all steps, a scalar.
        losses: name of each level -> its loss before its step, a scalar.
        gradients: name of each level -> gradient of that loss towards the level's own variable.
        stepped: name of each level -> its variable after its step.

    Everything is detached. Where several processes share a batch, losses are means over them.

    Example:
        >>> import torch
        >>> from selfexplain.hypergradients import Level, unroll
        >>> level = Level("w", lambda v: (v["w"] - v["a"]).square(), lr=0.25)
        >>> start = {"w": torch.tensor(0.0), "a": torch.tensor(3.0)}
        >>> unroll([level], lambda v: v["w"].square(), start, "a").outer
        tensor(2.2500)
    """

    hypergradient: Variable
    outer: Tensor
    losses: Mapping[str, Tensor]
    gradients: Mapping[str, Variable]
    stepped: Mapping[str, Variable]
