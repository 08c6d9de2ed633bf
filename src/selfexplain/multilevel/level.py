"""A level: a variable that takes one gradient step on a loss of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.multilevel.variables import (
    Variable,
    Variables,
    each,
    fresh,
    gradients,
    leaves,
    like,
)


@dataclass(frozen=True, slots=True)
class Level:
    """v' = project(v - lr grad_v loss), or + for a level that maximises.

    Args:
        name: of the level's variable.
        loss: scalar of a mapping name -> variable that holds this level's own variable at its start
            value, the earlier levels' stepped ones, and everything that no level moves.
        lr: size of the one step that stands for the level's argmin (as DARTS does).
        maximize: step uphill.
        project: smooth map of the stepped variable, tensor by tensor.

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

    @property
    def signed_lr(self) -> float:
        """What the gradient is multiplied with: -lr, or +lr for a level that maximises."""
        return self.lr if self.maximize else -self.lr

    def step(self, seen: Variables, *, create_graph: bool = False) -> Variable:
        """The stepped variable, projected; with a graph back to all that the loss saw if asked."""
        return self.projected(self.unprojected_step(seen, create_graph=create_graph))

    def unprojected_step(self, seen: Variables, *, create_graph: bool = False) -> Variable:
        """The stepped variable before its projection."""
        own = seen[self.name]
        if not all(tensor.requires_grad for tensor in leaves(own)):
            own = fresh(own)
        found = gradients(self.loss({**seen, self.name: own}), own, create_graph=create_graph)
        pairs = zip(leaves(own), found, strict=True)
        return like(own, [v.detach() + self.signed_lr * g for v, g in pairs])

    def projected(self, variable: Variable) -> Variable:
        """The variable within the level's constraint."""
        if self.project is None:
            return variable
        return each(self.project, variable)


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
