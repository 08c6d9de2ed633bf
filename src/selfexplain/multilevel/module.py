"""A module as a function of its parameters, for use in the losses of levels."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from selfexplain.multilevel.variables import Variable

Function = Callable[..., Any]
"""Of a variable that holds the parameters by name, then the module's own arguments."""


def as_function(module: nn.Module, buffers: Mapping[str, Tensor] | None = None) -> Function:
    """The module as a function of its parameters that leaves no trace.

    Buffers (BatchNorm's running statistics, say) are read from copies, and copied anew for each
    call, so that calls at displaced parameters neither see nor change what another call left.

    Args:
        module: in the mode in which it shall run.
        buffers: to begin each call with; None for the module's own.

    Returns:
        A function (parameters, *arguments) -> what the module returns; parameters is a dict of
        tensors by name, any of which may be missing if the module's own shall be used.

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
