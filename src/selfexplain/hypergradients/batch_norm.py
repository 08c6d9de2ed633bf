"""BatchNorm in training mode whose derivatives of every order are right, the second ones fast.

torch computes the second derivative of its fused BatchNorm by some thirty passes over the features,
and its third ones are silently wrong (pytorch issue 186256). Values and first derivatives here are
the fused ones, bit for bit. With xhat = (x - mean) r, r = (var + eps)^(-1/2) and, channel by
channel, <v> the mean of v over its N entries and P v = v - <v> - xhat <v xhat>, they are

    y = w xhat + b        dx = w r P g        dw = N <g xhat>        db = N <g>

for the output's gradient g. The second derivatives, along adjoints u of dx, p of dw and q of db,
with a = <u xhat>, c = <g xhat> and k = <u g> - <u> <g> - a c, are

    towards g    w r P u + p xhat + q
    towards x    r (p - w r a) (g - <g>) - w r^2 c (u - <u>) - r (p c - 2 w r a c + w r k) xhat
    towards w    N r k

sums of features that are scaled channel by channel, and so a few passes. Third and further ones are
those of primitive operations.

Shape suffixes: B batch, C channels; the features (B, C, ...) have any shape behind.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def _across(x: Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


def _beside(x: Tensor, value_C: Tensor) -> Tensor:
    """A number for each channel, in a shape that multiplies x."""
    return value_C.reshape([1, -1] + [1] * (x.dim() - 2))


# The fused passes, of tensors without a graph.


def _fused_gradient(
    gradient: Tensor,
    x: Tensor,
    weight_C: Tensor | None,
    mean_C: Tensor,
    rstd_C: Tensor,
    eps: float,
    towards_x: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Torch's own w r P g, N <g xhat> and N <g>; nothing in place of the first if not wanted."""
    if weight_C is None and x.is_cuda:  # there torch's kernel wants a weight for the sums
        weight_C = torch.ones_like(rstd_C)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        gradient, x, weight_C, None, None, mean_C, rstd_C, True, eps, [towards_x, True, True]
    )
    return found


def _second_gradient(
    adjoints: tuple[Tensor | None, Tensor | None, Tensor | None],
    saved: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor],
    sums: tuple[Tensor, Tensor],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Towards g, x and w, by the formulas above.

    Args:
        adjoints: u, p and q; None for zeros.
        saved: g, x, w, the mean and r.
        sums: N <g xhat> and N <g>.
        eps: added to the variance.
    """
    (u, p_C, q_C), (g, x, w_C, mean_C, r_C) = adjoints, saved
    count = x.numel() // x.shape[1]
    c_C, g_mean_C = (each / count for each in sums)
    g = laid_out_as(x, g)
    if u is None:
        assert p_C is not None or q_C is not None
        p_C = torch.zeros_like(r_C) if p_C is None else p_C
        on_g_C, on_x_C = r_C * p_C, -r_C.square() * p_C * c_C
        towards_x = torch.addcmul(
            _beside(x, -on_g_C * g_mean_C - on_x_C * mean_C), x, _beside(x, on_x_C)
        ).addcmul_(g, _beside(x, on_g_C))
        return _plus_affine(None, x, p_C, q_C, mean_C, r_C), towards_x, None
    u = laid_out_as(x, u)
    towards_g, u_xhat_C, u_sum_C = _fused_gradient(u, x, w_C, mean_C, r_C, eps)
    a_C, u_mean_C = u_xhat_C / count, u_sum_C / count
    # N (<u g> - <u> <g>): the same sum with g in the place of x, in one pass
    ones_C = torch.ones_like(r_C)
    ug_C = _fused_gradient(u, g, None, g_mean_C, ones_C, eps, towards_x=False)[1]
    k_C = ug_C / count - a_C * c_C
    wr_C = r_C if w_C is None else w_C * r_C
    pc_C = 0 if p_C is None else p_C * c_C
    on_g_C = r_C * ((0 if p_C is None else p_C) - wr_C * a_C)
    on_u_C = -r_C * wr_C * c_C
    on_x_C = -r_C.square() * (pc_C + wr_C * (k_C - 2 * a_C * c_C))
    constant_C = -on_g_C * g_mean_C - on_u_C * u_mean_C - on_x_C * mean_C
    towards_x = torch.addcmul(_beside(x, constant_C), x, _beside(x, on_x_C))
    towards_x.addcmul_(g, _beside(x, on_g_C)).addcmul_(u, _beside(x, on_u_C))
    towards_w_C = None if w_C is None else count * r_C * k_C
    return _plus_affine(towards_g, x, p_C, q_C, mean_C, r_C), towards_x, towards_w_C


def _plus_affine(
    start: Tensor | None,
    x: Tensor,
    p_C: Tensor | None,
    q_C: Tensor | None,
    mean_C: Tensor,
    r_C: Tensor,
) -> Tensor:
    """Start + p xhat + q; a None is zero."""
    if p_C is None and q_C is None:
        assert start is not None
        return start
    p_C = torch.zeros_like(r_C) if p_C is None else p_C
    scale_C = p_C * r_C
    shift_C = -mean_C * scale_C if q_C is None else q_C - mean_C * scale_C
    shift = _beside(x, shift_C) if start is None else start.add_(_beside(x, shift_C))
    return torch.addcmul(shift, x, _beside(x, scale_C))


def laid_out_as(x: Tensor, other: Tensor) -> Tensor:
    """The other tensor in x's order of memory: a gradient may be expanded, or a slice."""
    return other if other.stride() == x.stride() else torch.empty_like(x).copy_(other)


# The same with derivatives.


class _BatchNorm(torch.autograd.Function):
    """Of x (B, C, ...), weight and bias (C,) or None; updates the running statistics, if any."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_C: Tensor | None,
        bias_C: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean_C, rstd_C = torch.ops.aten.native_batch_norm(
            x, weight_C, bias_C, *running, True, momentum, eps
        )
        ctx.save_for_backward(x, weight_C, mean_C, rstd_C)
        ctx.eps = eps
        out: Tensor = y
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        towards = _Gradient.apply(gradient, *ctx.saved_tensors, ctx.eps)  # type: ignore[no-untyped-call]
        pairs = zip(towards, ctx.needs_input_grad[:3], strict=True)
        return (*(found if wanted else None for found, wanted in pairs), None, None, None)


class _Gradient(torch.autograd.Function):
    """Towards x, weight and bias, of the output's gradient, x and the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        x: Tensor,
        weight_C: Tensor | None,
        mean_C: Tensor,
        rstd_C: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = _fused_gradient(gradient, x, weight_C, mean_C, rstd_C, eps)
        ctx.save_for_backward(gradient, x, weight_C, mean_C, rstd_C, *found[1:])
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(
        ctx: Any, u: Tensor | None, p_C: Tensor | None, q_C: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if u is None and p_C is None and q_C is None:
            return (None,) * 6
        g, x, w_C, mean_C, rstd_C, *sums = ctx.saved_tensors
        found: tuple[Tensor | None, ...]
        if torch.is_grad_enabled():
            found = _second_gradient_of_primitives((u, p_C, q_C), g, x, w_C, ctx.eps)
        else:
            saved = g, x, w_C, mean_C, rstd_C
            found = _second_gradient((u, p_C, q_C), saved, (sums[0], sums[1]), ctx.eps)
        return *found, None, None, None


def _second_gradient_of_primitives(
    adjoints: tuple[Tensor | None, Tensor | None, Tensor | None],
    g: Tensor,
    x: Tensor,
    w_C: Tensor | None,
    eps: float,
) -> tuple[Tensor | None, ...]:
    """Towards g, x and w, with a graph back to all of these and to the adjoints."""
    # a view of each: what is differentiated here is this call's use of it alone
    g, x = g.view_as(g), x.view_as(x)
    w_C = None if w_C is None else w_C.view_as(w_C)
    inputs = [t for t in (g, x, w_C) if t is not None and t.requires_grad]
    across = _across(x)
    centred = x - x.mean(across, keepdim=True)
    r = (centred.square().mean(across, keepdim=True) + eps).rsqrt()
    xhat = centred * r
    dw_C, db_C = (g * xhat).sum(across), g.sum(across)
    projected = g - g.mean(across, keepdim=True) - xhat * (g * xhat).mean(across, keepdim=True)
    dx = projected * (r if w_C is None else r * _beside(x, w_C))
    pairs = [
        (output, adjoint)
        for output, adjoint in zip((dx, dw_C, db_C), adjoints, strict=True)
        if adjoint is not None and output.requires_grad
    ]
    if not pairs:
        return None, None, None
    outputs, along = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, inputs, along, create_graph=True, allow_unused=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in (g, x, w_C))


class ClosedBatchNorm(TorchFunctionMode):
    """While active, every BatchNorm in training mode is computed as this module describes.

    Running statistics are updated as usual. BatchNorms in other precisions than float32 and
    float64, and those that no gradient is taken through, are left as they are.

    Args:
        cpu_only: leave those on other devices as they are, too.
    """

    def __init__(self, *, cpu_only: bool = False) -> None:
        super().__init__()
        self.cpu_only = cpu_only

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace a BatchNorm that normalises with the batch's statistics; pass on the rest."""
        if func is F.batch_norm:
            given = batch_norm_arguments(args, kwargs)
            if given.get("training", False) and self._replaces(given["input"]):
                running = given.get("running_mean"), given.get("running_var")
                weight_C = given.get("weight")
                return _BatchNorm.apply(  # type: ignore[no-untyped-call]
                    given["input"],
                    # torch's fused pass reads an expanded weight as if its entries lay side by side
                    weight_C if weight_C is None else weight_C.contiguous(),
                    given.get("bias"),
                    running,
                    given.get("momentum", 0.1),
                    given.get("eps", 1e-5),
                )
        return func(*args, **(kwargs or {}))

    def _replaces(self, x: Tensor) -> bool:
        several = x.numel() > x.shape[1]  # else torch says what is wrong
        there = x.device.type == "cpu" or not self.cpu_only
        # other ways to differentiate, inside of a loss: torch's own supports them all
        functorch = torch._C._are_functorch_transforms_active()  # noqa: SLF001
        transformed = functorch or forward_ad._current_level >= 0  # noqa: SLF001
        return several and there and x.dtype in (torch.float32, torch.float64) and not transformed


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


def batch_norm_arguments(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of a call of torch's batch_norm by name."""
    return dict(zip(_ARGUMENTS, args, strict=False)) | dict(kwargs or {})
