"""Depthwise convolutions whose gradients are fast on a CPU too.

Their values are those of `nn.Conv2d`, and so are their derivatives of every order; but these are
computed in another way where torch's CPU library has no fast code: for kernels of more than three
columns and for dilated ones, a gradient takes it 5 to 50 times as long as the convolution (torch
2.13 with oneDNN).

Shape suffixes: B batch, C channels, H and W space, k kernel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Gradients of depthwise convolutions of stride 1, made of operations that a CPU has fast code
# for.
#
# Shape suffixes: B batch, C channels, H and W space, k kernel.


COLUMNS = 3
"""Columns of a kernel up to which the gradient towards the kernel is fast."""


def same_convolution(x_BCHW: Tensor, kernel_C1kk: Tensor, dilation: int, stride: int = 1) -> Tensor:
    """Depthwise convolution with zero padding that keeps the size at stride 1.

    Example:
        >>> same_convolution(torch.ones(1, 1, 1, 3), torch.ones(1, 1, 3, 3), dilation=1)
        tensor([[[[2., 3., 2.]]]])
    """
    padding = dilation * (kernel_C1kk.shape[-1] // 2)
    return F.conv2d(x_BCHW, kernel_C1kk, None, stride, padding, dilation, x_BCHW.shape[1])


def input_gradient(
    gradient_BCHW: Tensor, x_BCHW: Tensor, kernel_C1kk: Tensor, dilation: int
) -> Tensor:
    """Gradient towards the input of a depthwise convolution of stride 1.

    Args:
        gradient_BCHW: gradient towards the output.
        x_BCHW: the input.
        kernel_C1kk: the kernels.
        dilation: 1 or 2.

    Returns:
        (B, C, H, W).

    Example:
        >>> ones = torch.ones(1, 1, 1, 3)
        >>> input_gradient(ones, ones, torch.ones(1, 1, 3, 3), dilation=1)
        tensor([[[[2., 3., 2.]]]])
    """
    if dilation > 1:  # the transpose of a convolution is one with the kernel turned round
        return same_convolution(gradient_BCHW, kernel_C1kk.flip(2, 3), dilation)
    padding = kernel_C1kk.shape[-1] // 2
    return _gradients(gradient_BCHW, x_BCHW, kernel_C1kk, (padding, padding), towards=0)


def kernel_gradient(
    gradient_BCHW: Tensor, x_BCHW: Tensor, kernel_C1kk: Tensor, dilation: int
) -> Tensor:
    """Gradient towards the kernels of a depthwise convolution of stride 1.

    A convolution of dilation 2 is an undilated one on each of the four grids of every second pixel;
    and the columns of a wide kernel have their gradients each for itself, so a few can be asked for
    at a time.

    Args:
        gradient_BCHW: gradient towards the output.
        x_BCHW: the input.
        kernel_C1kk: the kernels, whose shape alone matters.
        dilation: 1 or 2.

    Returns:
        (C, 1, k, k).

    Example:
        >>> ones = torch.ones(1, 1, 1, 3)
        >>> kernel_gradient(ones, ones, torch.ones(1, 1, 3, 3), dilation=1)[0, 0, 1]
        tensor([2., 3., 2.])
    """
    gradient_BCHW, x_BCHW = _channels_last(gradient_BCHW), _channels_last(x_BCHW)
    if dilation == 2:
        gradient_BCHW, x_BCHW = quarters(gradient_BCHW), quarters(x_BCHW)
    size, width = kernel_C1kk.shape[-1], x_BCHW.shape[-1]
    half = size // 2
    if size <= COLUMNS:
        return _gradients(gradient_BCHW, x_BCHW, kernel_C1kk, (half, half), towards=1)
    padded_BCHW = F.pad(x_BCHW, (half, half))
    found = []
    for start in range(0, size, COLUMNS):
        columns = kernel_C1kk[..., start : start + COLUMNS]
        seen_BCHW = padded_BCHW[..., start : start + width + columns.shape[-1] - 1]
        found.append(_gradients(gradient_BCHW, seen_BCHW, columns, (half, 0), towards=1))
    return torch.cat(found, dim=-1)


def _channels_last(x_BCHW: Tensor) -> Tensor:
    """The same features with channels last in memory: small images take much longer otherwise."""
    # permutations, as torch.vmap cannot ask for a memory format
    return x_BCHW.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def quarters(x_BCHW: Tensor) -> Tensor:
    """The four grids of every second pixel, one after the other in the batch; odd sizes get zeros.

    Args:
        x_BCHW: features; the memory format stays theirs.

    Returns:
        (4 B, C, ceil(H / 2), ceil(W / 2)).

    Example:
        >>> quarters(torch.arange(8.0).reshape(1, 1, 2, 4)).flatten(1)
        tensor([[0., 2.],
                [1., 3.],
                [4., 6.],
                [5., 7.]])
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
    padding: tuple[int, int],
    towards: int,
) -> Tensor:
    """Torch's own gradient of an undilated convolution, towards input (0) or kernel (1)."""
    wanted = [towards == 0, towards == 1, False]
    groups = x_BCHW.shape[1]
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient_BCHW,
        x_BCHW,
        kernel_C1kk,
        None,
        [1, 1],
        padding,
        [1, 1],
        False,
        [0, 0],
        groups,
        wanted,
    )
    return found[towards]


class DepthwiseConv2d(nn.Conv2d):
    """One square kernel for every channel, and zero padding that keeps the size at stride 1.

    Args:
        channels: channels C of input and output.
        kernel: size k of the kernel, odd.
        stride: 1 or 2.
        dilation: 1 or 2.

    Shapes:
        input (B, C, H, W); output (B, C, ceil(H / stride), ceil(W / stride)).

    Example:
        >>> DepthwiseConv2d(4, 3, stride=2, dilation=2)(torch.zeros(1, 4, 7, 8)).shape
        torch.Size([1, 4, 4, 4])
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
        stride, dilation = self.stride[0], self.dilation[0]
        if stride == dilation == 2:  # every pixel that is read has even coordinates
            x_BCHW, stride, dilation = x_BCHW[:, :, ::2, ::2], 1, 1
        on_cpu = x_BCHW.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if on_cpu and stride == 1 and (dilation > 1 or self.kernel_size[0] > COLUMNS):
            out: Tensor = _DepthwiseOnCPU.apply(  # type: ignore[no-untyped-call]
                x_BCHW, self.weight, dilation
            )
            return out
        return same_convolution(x_BCHW, self.weight, dilation, stride)


class _DepthwiseOnCPU(torch.autograd.Function):
    """Stride 1. The gradients are made of differentiable operations, so they have gradients too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x_BCHW: Tensor, kernel_C1kk: Tensor, dilation: int) -> Tensor:
        return same_convolution(x_BCHW, kernel_C1kk, dilation)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor, int],
        output: Tensor,  # noqa: ARG004
    ) -> None:
        x_BCHW, kernel_C1kk, ctx.dilation = inputs
        ctx.save_for_backward(x_BCHW, kernel_C1kk)

    @staticmethod
    def backward(ctx: Any, gradient_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_BCHW, kernel_C1kk = ctx.saved_tensors
        towards_x = towards_kernel = None
        if ctx.needs_input_grad[0]:
            towards_x = input_gradient(gradient_BCHW, x_BCHW, kernel_C1kk, ctx.dilation)
        if ctx.needs_input_grad[1]:
            towards_kernel = kernel_gradient(gradient_BCHW, x_BCHW, kernel_C1kk, ctx.dilation)
        return towards_x, towards_kernel, None
