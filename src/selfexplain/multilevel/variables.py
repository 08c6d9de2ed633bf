"""A variable is a tensor or a dict of tensors; here it is seen as a flat tuple of tensors."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from selfexplain.errors import InputError

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
    """A function of each tensor, in the form of the variable.

    Example:
        >>> each(torch.neg, torch.ones(1))
        tensor([-1.])
    """
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
    if scalar.numel() != 1:
        raise InputError(f"a loss has shape {tuple(scalar.shape)}; return a scalar")
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
