"""BatchNorm of primitive operations: right in every derivative, slower."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def primitive_batch_norm(
    x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float = 1e-5
) -> Tensor:
    """Normalise with the batch's own mean and variance, as a BatchNorm in training mode does.

    Args:
        x: (B, C, ...).
        weight_C: scale of each channel, or None.
        bias_C: shift of each channel, or None.
        eps: added to the variance.

    Returns:
        (B, C, ...). No running statistics are read or written.

    Example:
        >>> import torch
        >>> primitive_batch_norm(torch.tensor([[1.0], [3.0]]), None, None, eps=0.0)
        tensor([[-1.],
                [ 1.]])
    """
    across = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    centred = x - x.mean(across, keepdim=True)
    y = centred * (centred.square().mean(across, keepdim=True) + eps).rsqrt()
    if weight_C is not None:
        y = y * weight_C.reshape(shape)
    return y if bias_C is None else y + bias_C.reshape(shape)


class PrimitiveBatchNorm(TorchFunctionMode):
    """While active, every BatchNorm in training mode is computed by `primitive_batch_norm`.

    The fused one returns wrong third derivatives in training mode (pytorch issue 186256). Running
    statistics move as usual.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3, 2, 2)
        >>> with PrimitiveBatchNorm():
        ...     y = torch.nn.BatchNorm2d(3)(x)
        >>> "NativeBatchNorm" in y.grad_fn.name()
        False
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace a BatchNorm that normalises with the batch's statistics; pass on the rest."""
        kwargs = dict(kwargs or {})
        if func is F.batch_norm:
            given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            if given.get("training", False):
                _move_statistics(given)
                return primitive_batch_norm(
                    given["input"],
                    given.get("weight"),
                    given.get("bias"),
                    given.get("eps", 1e-5),
                )
        return func(*args, **kwargs)


def _move_statistics(given: Mapping[str, Any]) -> None:
    """Move the running statistics, if there are any, as torch's BatchNorm does."""
    if given.get("running_mean") is None:
        return
    x, momentum = given["input"].detach(), given.get("momentum", 0.1)
    across = [d for d in range(x.dim()) if d != 1]
    with torch.no_grad():
        given["running_mean"].lerp_(x.mean(across), momentum)
        given["running_var"].lerp_(x.var(across), momentum)


_ARGUMENTS = (
    "input",
    "running_mean",
    "running_var",
    "weight",
    "bias",
    "training",
    "momentum",
    "eps",
)
"""Parameters of torch's batch_norm in their order."""
