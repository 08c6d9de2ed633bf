"""Depthwise convolutions whose derivatives of every order are fast, on a CPU above all.

A convolution is a product of features x and kernel k; so are its gradients, towards the input (of
the output's gradient g and k) and towards the kernel (of g and x). The derivative of each of the
three is made of the other two, so three functions are closed under differentiation. Torch's own
second derivative of a grouped convolution takes the groups one by one, in a loop, which for
depthwise ones is a call for each channel.

Shape suffixes: B batch, C channels, H and W space, k kernel.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FAST_COLUMNS = 3
"""Columns of a kernel up to which torch's gradient towards the kernel is fast."""


class Geometry(NamedTuple):
    """How a square kernel moves: zero padding keeps the size at stride 1."""

    stride: int
    dilation: int


# The three products, of tensors without a graph.


def convolution(x_BCHW: Tensor, kernel_C1kk: Tensor, how: Geometry) -> Tensor:
    """(B, C, ceil(H / stride), ceil(W / stride))."""
    padding = how.dilation * (kernel_C1kk.shape[-1] // 2)
    groups = x_BCHW.shape[1]
    return F.conv2d(x_BCHW, kernel_C1kk, None, how.stride, padding, how.dilation, groups)


def input_gradient(
    gradient_BCHW: Tensor, kernel_C1kk: Tensor, how: Geometry, size: tuple[int, int]
) -> Tensor:
    """Gradient (B, C, H, W) towards the input, whose (H, W) is `size`."""
    if how.dilation > 1 and how.stride == 1:
        # the transpose of a convolution is one with the kernel turned round
        return convolution(gradient_BCHW, kernel_C1kk.flip(2, 3), how)
    x_BCHW = gradient_BCHW[:, :, :1, :1].expand(-1, -1, *size)  # its shape alone is read
    padding = how.dilation * (kernel_C1kk.shape[-1] // 2)
    return _gradients(gradient_BCHW, x_BCHW, kernel_C1kk, how, (padding, padding), (True, False))[0]


def kernel_gradient(gradient_BCHW: Tensor, x_BCHW: Tensor, how: Geometry, size: int) -> Tensor:
    """Gradient (C, 1, size, size) towards the kernels.

    At stride 1, a convolution of dilation 2 is an undilated one on each of the four grids of every
    second pixel; and the columns of a wide kernel have their gradients each for itself, so a few
    can be asked for at a time.
    """
    gradient_BCHW, x_BCHW = _channels_last(gradient_BCHW), _channels_last(x_BCHW)
    kernel_C1kk = x_BCHW.new_empty(x_BCHW.shape[1], 1, size, size)  # its shape alone is read
    half = size // 2
    if how == Geometry(1, 2):
        gradient_BCHW, x_BCHW, how = quarters(gradient_BCHW), quarters(x_BCHW), Geometry(1, 1)
    if size <= FAST_COLUMNS or how != Geometry(1, 1):
        padding = how.dilation * half
        return _gradients(
            gradient_BCHW, x_BCHW, kernel_C1kk, how, (padding, padding), (False, True)
        )[1]
    padded_BCHW, width = F.pad(x_BCHW, (half, half)), x_BCHW.shape[-1]
    found = []
    for start in range(0, size, FAST_COLUMNS):
        columns = kernel_C1kk[..., start : start + FAST_COLUMNS]
        seen_BCHW = padded_BCHW[..., start : start + width + columns.shape[-1] - 1]
        seen = (gradient_BCHW, seen_BCHW, columns)
        found.append(_gradients(*seen, how, (half, 0), (False, True))[1])
    return torch.cat(found, dim=-1)


def _channels_last(x_BCHW: Tensor) -> Tensor:
    """The same features with channels last in memory: small images take much longer otherwise."""
    # permutations, as torch.vmap cannot ask for a memory format
    return x_BCHW.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def quarters(x_BCHW: Tensor) -> Tensor:
    """The four grids of every second pixel, (4 B, C, ceil(H / 2), ceil(W / 2)), zero-padded.

    The memory format stays that of the features.
    """
    height, width = x_BCHW.shape[2:]
    if height % 2 or width % 2:  # an edge of zeros adds nothing to a gradient
        x_BCHW = F.pad(x_BCHW, (0, width % 2, 0, height % 2))
    grids = [x_BCHW[:, :, row::2, column::2] for row in range(2) for column in range(2)]
    return torch.cat(grids)


def _gradients(
    gradient_BCHW: Tensor,
    x_BCHW: Tensor,
    kernel_C1kk: Tensor,
    how: Geometry,
    padding: tuple[int, int],
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Torch's own gradients towards input and kernel, as far as they are wanted."""
    x_and_kernel: tuple[Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient_BCHW,
        x_BCHW,
        kernel_C1kk,
        None,
        [how.stride] * 2,
        padding,
        [how.dilation] * 2,
        False,
        [0, 0],
        x_BCHW.shape[1],
        [*wanted, False],
    )[:2]
    return x_and_kernel


# The same with derivatives: each `backward` and `jvp` is made of the three.


def wanted(ctx: Any) -> tuple[bool, bool]:
    """Whether this backward pass asks for the gradient towards each of the two factors.

    `needs_input_grad` says only whether it could be asked for. In a chain of levels most passes
    want the features' gradients alone, and the kernels' are the dearer ones.
    """
    left, right = ctx.needs_input_grad[:2]
    if not (left and right) or torch._C._are_functorch_transforms_active():  # noqa: SLF001
        return left, right
    (left_node, _), (right_node, _) = ctx.next_functions[:2]
    return _will_run(left_node), _will_run(right_node)


def _will_run(node: Any) -> bool:
    try:
        runs: bool = torch._C._will_engine_execute_node(node)  # noqa: SLF001
    except RuntimeError:  # torch's refusal of a leaf that is asked for itself
        return True
    return runs


class _Product(torch.autograd.Function):
    """A product of two tensors: its derivative in a direction is linear in each."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        left, right, *ctx.constants = inputs
        ctx.save_for_backward(left, right)
        ctx.save_for_forward(left, right)

    @classmethod
    def along(cls, ctx: Any, left_t: Tensor | None, right_t: Tensor | None) -> Tensor:
        """The derivative along the tangents of both factors."""
        left, right = ctx.saved_tensors
        terms = []
        if left_t is not None:
            terms.append(cls.apply(left_t, right, *ctx.constants))  # type: ignore[no-untyped-call]
        if right_t is not None:
            terms.append(cls.apply(left, right_t, *ctx.constants))  # type: ignore[no-untyped-call]
        total: Tensor = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return total


class _Convolution(_Product):
    """Of x (B, C, H, W) and kernels (C, 1, k, k)."""

    @staticmethod
    def forward(x_BCHW: Tensor, kernel_C1kk: Tensor, how: Geometry) -> Tensor:
        return convolution(x_BCHW, kernel_C1kk, how)

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, kernel_t: Tensor | None, _: None) -> Tensor:
        return _Convolution.along(ctx, x_t, kernel_t)

    @staticmethod
    def backward(ctx: Any, gradient_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, kernel_C1kk = ctx.saved_tensors
        (how,) = ctx.constants
        for_x, for_kernel = wanted(ctx)
        fast = kernel_C1kk.shape[-1] <= FAST_COLUMNS and how.dilation == 1
        if fast and not torch.is_grad_enabled():  # a first derivative alone: torch's own is as good
            padding = (kernel_C1kk.shape[-1] // 2,) * 2
            return (
                *_gradients(gradient_BCHW, x_BCHW, kernel_C1kk, how, padding, (for_x, for_kernel)),
                None,
            )
        towards_x = towards_kernel = None
        if for_x:
            size = tuple(x_BCHW.shape[2:])
            towards_x = _InputGradient.apply(gradient_BCHW, kernel_C1kk, how, size)  # type: ignore[no-untyped-call]
        if for_kernel:
            width = kernel_C1kk.shape[-1]
            towards_kernel = _KernelGradient.apply(gradient_BCHW, x_BCHW, how, width)  # type: ignore[no-untyped-call]
        return towards_x, towards_kernel, None


class _InputGradient(_Product):
    """Of the output's gradient (B, C, H', W') and kernels (C, 1, k, k)."""

    @staticmethod
    def forward(
        gradient_BCHW: Tensor, kernel_C1kk: Tensor, how: Geometry, size: tuple[int, int]
    ) -> Tensor:
        return input_gradient(gradient_BCHW, kernel_C1kk, how, size)

    @staticmethod
    def jvp(ctx: Any, gradient_t: Tensor | None, kernel_t: Tensor | None, *_: None) -> Tensor:
        return _InputGradient.along(ctx, gradient_t, kernel_t)

    @staticmethod
    def backward(ctx: Any, along_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        gradient_BCHW, kernel_C1kk = ctx.saved_tensors
        how, _ = ctx.constants
        for_gradient, for_kernel = wanted(ctx)
        towards_gradient = towards_kernel = None
        if for_gradient:
            towards_gradient = _Convolution.apply(along_BCHW, kernel_C1kk, how)  # type: ignore[no-untyped-call]
        if for_kernel:
            width = kernel_C1kk.shape[-1]
            towards_kernel = _KernelGradient.apply(gradient_BCHW, along_BCHW, how, width)  # type: ignore[no-untyped-call]
        return towards_gradient, towards_kernel, None, None


class _KernelGradient(_Product):
    """Of the output's gradient (B, C, H', W') and x (B, C, H, W)."""

    @staticmethod
    def forward(gradient_BCHW: Tensor, x_BCHW: Tensor, how: Geometry, size: int) -> Tensor:
        return kernel_gradient(gradient_BCHW, x_BCHW, how, size)

    @staticmethod
    def jvp(ctx: Any, gradient_t: Tensor | None, x_t: Tensor | None, *_: None) -> Tensor:
        return _KernelGradient.along(ctx, gradient_t, x_t)

    @staticmethod
    def backward(ctx: Any, along_C1kk: Tensor) -> tuple[Tensor | None, ...]:
        gradient_BCHW, x_BCHW = ctx.saved_tensors
        how, _ = ctx.constants
        for_gradient, for_x = wanted(ctx)
        towards_gradient = towards_x = None
        if for_gradient:
            towards_gradient = _Convolution.apply(x_BCHW, along_C1kk, how)  # type: ignore[no-untyped-call]
        if for_x:
            size = tuple(x_BCHW.shape[2:])
            towards_x = _InputGradient.apply(gradient_BCHW, along_C1kk, how, size)  # type: ignore[no-untyped-call]
        return towards_gradient, towards_x, None, None


class DepthwiseConv2d(nn.Conv2d):
    """One square kernel for every channel, and zero padding that keeps the size at stride 1.

    Shapes:
        input (B, C, H, W); output (B, C, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            channels,
            channels,
            kernel,
            stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=channels,
            bias=False,
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolution of every channel with its kernel."""
        how = Geometry(self.stride[0], self.dilation[0])
        if how == Geometry(2, 2):  # every pixel that is read has even coordinates
            x_BCHW, how = x_BCHW[:, :, ::2, ::2], Geometry(1, 1)
        if x_BCHW.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            out: Tensor = _Convolution.apply(x_BCHW, self.weight, how)  # type: ignore[no-untyped-call]
            return out
        return convolution(x_BCHW, self.weight, how)
