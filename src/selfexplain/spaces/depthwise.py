"""Depthwise convolutions whose gradients are fast on a CPU too.

Their values are those of `nn.Conv2d`, and so are their derivatives of every order; but these are
computed in another way where torch's CPU library has no fast code: for kernels of more than three
columns and for dilated ones, a gradient takes it 5 to 50 times as long as the convolution (torch
2.13 with oneDNN).

Shape suffixes: B batch, C channels, H and W space, k kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.spaces.depthwise_gradients import (
    COLUMNS,
    input_gradient,
    kernel_gradient,
    same_convolution,
)


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
