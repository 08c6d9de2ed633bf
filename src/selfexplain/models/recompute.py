"""Parts of a network that are computed again in the backward pass, in place of being stored.

`torch.utils.checkpoint` does so for plain numbers; of dual ones (`torch.autograd.forward_ad`) it
leaves the tangents, and their graphs, where they are. Here inputs and parameters alone are kept,
with their tangents, and a part's graph lives while its own backward pass runs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from selfexplain.seeding import random_state, set_random_state

_RECOMPUTES: ContextVar[bool] = ContextVar("recomputes", default=False)

_make_dual: Callable[..., Tensor] = forward_ad.make_dual
_unpack_dual: Callable[..., Any] = forward_ad.unpack_dual


@contextmanager
def recompute(active: bool = True) -> Iterator[None]:
    """While active, parts of networks that can are computed again in the backward pass.

    Those are the mixed cells of supernets; a part says so by way of `recomputes` and `recomputed`.

    Example:
        >>> with recompute():
        ...     recomputes()
        True
    """
    token = _RECOMPUTES.set(active)
    try:
        yield
    finally:
        _RECOMPUTES.reset(token)


def recomputes() -> bool:
    """Whether a part of a network is asked to be `recomputed`.

    Example:
        >>> recomputes()
        False
    """
    functorch = torch._C._are_functorch_transforms_active()  # noqa: SLF001
    return _RECOMPUTES.get() and torch.is_grad_enabled() and not functorch


def recomputed(part: nn.Module, *inputs: Tensor) -> Tensor:
    """What the part returns, its graph made in the backward pass.

    Parameters are those that the part has now, put in by `functional_call` or its own. Buffers are
    updated by this call; the second one, which draws the same random numbers from torch's global
    generators, works on copies. Hooks within the part run in both.

    Args:
        part: its `forward` computes directly while `recomputes` is false.
        inputs: of any shape, dual or not, one of them or of the parameters with a gradient.

    Returns:
        The part's one tensor, dual if an input or a parameter is.

    Example:
        >>> part = nn.Linear(2, 1, bias=False)
        >>> with forward_ad.dual_level():
        ...     x = forward_ad.make_dual(torch.ones(1, 2), torch.ones(1, 2)).requires_grad_()
        ...     (gradient,) = torch.autograd.grad(recomputed(part, x).square().sum(), x)
        ...     tangent = forward_ad.unpack_dual(gradient).tangent
        >>> torch.allclose(tangent, 2 * part.weight.sum() * part.weight)
        True
    """
    parameters = dict(part.named_parameters())
    state, modes = random_state(), _Modes(inputs[0].device.type)
    with recompute(False), torch.no_grad():
        found = _unpack_dual(part.forward(*inputs))
    buffers = {name: buffer.clone() for name, buffer in part.named_buffers()}

    def again(*tensors: Tensor) -> Tensor:
        given = dict(zip(parameters, tensors[len(inputs) :], strict=True))
        before = random_state()
        set_random_state(state)
        with recompute(False), modes.active():
            out: Tensor = functional_call(part, {**buffers, **given}, tensors[: len(inputs)])
        set_random_state(before)
        return out

    duals = [_unpack_dual(tensor) for tensor in (*inputs, *parameters.values())]
    primals, tangents = [d.primal for d in duals], [d.tangent for d in duals]
    linked: Tensor = _Recomputed.apply(again, tangents, found.primal, *primals)  # type: ignore[no-untyped-call]
    return linked if found.tangent is None else _make_dual(linked, found.tangent)


class _ReLUOfInput(TorchFunctionMode):
    """ReLU by its input, which has the same values and derivatives.

    torch's remembers its output. Of a dual one that is a cycle, as the output's tangent is computed
    of the output: the memory would stay to the end of the dual level.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace a ReLU that is not in place; pass on the rest."""
        kwargs = kwargs or {}
        if func in (F.relu, torch.relu, Tensor.relu) and not kwargs.get("inplace", False):
            return F.threshold(args[0] if args else kwargs["input"], 0.0, 0.0)
        return func(*args, **kwargs)


class _Modes:
    """The modes that a forward pass runs in and a backward pass may not: torch's, and autocast."""

    def __init__(self, device: str) -> None:
        self.stack: list[TorchFunctionMode] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        self.autocast: dict[str, Any] | None = None
        if torch.amp.is_autocast_available(device):
            enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            self.autocast = {"device_type": device, "dtype": dtype, "enabled": enabled}

    @contextmanager
    def active(self) -> Iterator[None]:
        with ExitStack() as modes:
            modes.enter_context(_ReLUOfInput())
            now = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
            for mode in self.stack:
                if mode not in now:
                    modes.enter_context(mode)
            if self.autocast:
                modes.enter_context(torch.autocast(**self.autocast, cache_enabled=False))
            yield


class _Recomputed(torch.autograd.Function):
    """Ties a value to what it was computed of; the backward pass computes it again to see how."""

    @staticmethod
    def forward(
        ctx: Any,
        again: Callable[..., Tensor],
        tangents: list[Tensor | None],
        value: Tensor,
        *primals: Tensor,
    ) -> Tensor:
        ctx.again, ctx.tangents = again, [t if t is None else t.detach() for t in tangents]
        ctx.save_for_backward(*primals)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        differentiated = torch.is_grad_enabled()  # the gradient is asked for with its graph
        tensors, needed = [], ctx.needs_input_grad[3:]
        for primal, tangent, need in zip(ctx.saved_tensors, ctx.tangents, needed, strict=True):
            own = primal if differentiated else primal.detach()
            own = own if tangent is None else _make_dual(own, tangent)
            tensors.append(own if differentiated else own.requires_grad_(need))
        with torch.enable_grad():
            out = ctx.again(*tensors)
            wanted = [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
            found = iter(
                torch.autograd.grad(
                    out, wanted, gradient, allow_unused=True, create_graph=differentiated
                )
            )
        return None, None, None, *(next(found) if need else None for need in needed)
