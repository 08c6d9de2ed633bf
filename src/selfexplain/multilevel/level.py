"""A level: a variable that takes one gradient step on a loss of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.multilevel.processes import Processes, averaged
from selfexplain.multilevel.variables import (
    Variable,
    Variables,
    detached,
    fresh,
    gradients,
    leaves,
    like,
)


@dataclass(frozen=True, slots=True)
class Level:
    """v' = project(v - lr direction(grad_v loss)), or + for a level that maximises.

    Args:
        name: of the level's variable.
        loss: scalar of a mapping name -> variable that holds this level's own variable at its start
            value, the earlier levels' stepped ones, and everything that no level moves.
        lr: size of the one step that stands for the level's argmin (as DARTS does).
        maximize: step uphill.
        project: smooth map of the stepped variable, tensor by tensor.
        direction: smooth map of the gradient before the step, tensor by tensor (its normalisation,
            say); None for the gradient itself.
        displacement: root mean square, over the variable's entries and in their units, of the
            displacement that a difference makes; None for a small one by precision, right for
            smooth losses. The gradient of a network with ReLUs jumps wherever a unit switches, and
            a small displacement then measures where the jumps happen to be; see
            docs/multilevel.md.
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
    lr: float
    maximize: bool = False
    project: Callable[[Tensor], Tensor] | None = None
    direction: Callable[[Tensor], Tensor] | None = None
    displacement: float | None = None
    shared: bool = True

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
            raise InputError(
                f"the loss of level {self.name} is cut off from its variable; compute it from "
                f"variables[{self.name!r}], with gradients enabled"
            )
        return loss, like(own, gradients(loss, own, create_graph=create_graph))

    def moved(self, own: Variable, gradient: Variable) -> Variable:
        """The level's own variable after a step along a gradient, within its constraint."""
        return like(
            own, [self._moved(v, g) for v, g in zip(leaves(own), leaves(gradient), strict=True)]
        )

    def step(self, seen: Variables, *, create_graph: bool = False) -> Variable:
        """The stepped variable; with a graph back to all that the loss saw if asked."""
        _, gradient = self.gradient(seen, create_graph=create_graph)
        return self.moved(seen[self.name], gradient)

    def _moved(self, v: Tensor, gradient: Tensor) -> Tensor:
        along = gradient if self.direction is None else self.direction(gradient)
        stepped = v.detach() + (self.lr if self.maximize else -self.lr) * along
        return stepped if self.project is None else self.project(stepped)


def mean_gradient(
    level: Level, loss: Tensor, gradient: Variable, processes: Processes
) -> tuple[Tensor, Variable]:
    """A level's loss, and the gradient its variable moves along, from those of each process.

    Both are means over the processes, without a graph; the gradient towards a variable of which
    each process has its own is left as it is.

    Example:
        >>> import torch
        >>> level = Level("w", torch.sum, 0.1)
        >>> mean_gradient(level, torch.tensor(1.0), torch.tensor(2.0), Processes())
        (tensor(1.), tensor(2.))
    """
    loss, gradient = loss.detach(), detached(gradient)
    if level.shared:
        return averaged(loss, gradient, processes)
    return processes.mean([loss])[0], gradient


def unmoved(levels: Sequence[Level], variables: Variables) -> dict[str, Variable]:
    """The variables that no level moves: what the first level sees beside its own.

    Example:
        >>> import torch
        >>> level = Level("w", torch.sum, 0.1)
        >>> list(unmoved([level], {"w": torch.ones(1), "a": torch.ones(1)}))
        ['a']
    """
    moved = {level.name for level in levels}
    return {name: variable for name, variable in variables.items() if name not in moved}


def check_levels(levels: Sequence[Level], variables: Mapping[str, Variable], wrt: str) -> None:
    """Raise InputError unless every level has a variable of its own and `wrt` is another.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> check_levels([Level("w", torch.sum, 0.1)], {"w": one, "a": one}, "a")
    """
    names = [level.name for level in levels]
    if len(set(names)) != len(names):
        raise InputError(f"levels {', '.join(names)} share a name; give each a variable of its own")
    for name in (*names, wrt):
        if name not in variables:
            known = ", ".join(variables)
            raise InputError(f"there is no variable {name!r}; pass it among variables ({known})")
    if wrt in names:
        raise InputError(f"wrt is {wrt!r}, which a level moves; pass another variable")
