"""The candidate operations of a cell, each cut in two where a supernet can share its first part.

An operation first *prepares* its source node, without weights (ReLU or a pooling), and then works
on that with weights of its own: convolutions and a last BatchNorm. All operations that leave a node
with the same preparation can share it.

Shape suffixes: B batch, C channels, H and W space.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.spaces.depthwise import DepthwiseConv2d

Preparation = Callable[[Tensor, int], Tensor]

PREPARATIONS: dict[str, Preparation] = {
    "identity": lambda x_BCHW, stride: x_BCHW,
    "relu": lambda x_BCHW, stride: F.relu(x_BCHW),
    "max_pool": lambda x_BCHW, stride: F.max_pool2d(x_BCHW, 3, stride, padding=1),
    "avg_pool": lambda x_BCHW, stride: F.avg_pool2d(
        x_BCHW, 3, stride, padding=1, count_include_pad=False
    ),
}
"""Name -> function(node, stride) of what an operation does before its weights come in."""


class FactorizedReduce(nn.Module):
    """Halve the resolution with two 1x1 convolutions of stride 2, the second one pixel further on.

    Together they see half of the pixels, where a single one would see a quarter.

    Shapes:
        input (B, inputs, H, W), H and W even; output (B, outputs, H / 2, W / 2), outputs even.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features at half the resolution."""
        return torch.cat([self.even(x_BCHW), self.odd(x_BCHW[:, :, 1:, 1:])], dim=1)


def depthwise_separable(channels: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    """A depthwise convolution, then a pointwise one."""
    return [
        DepthwiseConv2d(channels, kernel, stride, dilation),
        nn.Conv2d(channels, channels, 1, bias=False),
    ]


def _separable(channels: int, kernel: int, stride: int, affine: bool) -> list[nn.Module]:
    return [
        *depthwise_separable(channels, kernel, stride, dilation=1),
        nn.BatchNorm2d(channels, affine=affine),
        nn.ReLU(),
        *depthwise_separable(channels, kernel, stride=1, dilation=1),
    ]


def _convolution(channels: int, kernel: int, edges: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, edges * channels, kernel, padding=kernel // 2, bias=False)]


class Shape(NamedTuple):
    """What the weights of an operation depend on."""

    channels: int
    stride: int
    affine: bool
    edges: int


class Operation(NamedTuple):
    """Name of the preparation, and the layers between it and the last BatchNorm (None: neither)."""

    preparation: str
    layers: Callable[[Shape], list[nn.Module]] | None = None


OPERATIONS: dict[str, Operation] = {
    "max_pool_3x3": Operation("max_pool"),
    "avg_pool_3x3": Operation("avg_pool"),
    "skip_connect": Operation("identity"),
    "sep_conv_3x3": Operation("relu", lambda s: _separable(s.channels, 3, s.stride, s.affine)),
    "sep_conv_5x5": Operation("relu", lambda s: _separable(s.channels, 5, s.stride, s.affine)),
    "dil_conv_3x3": Operation("relu", lambda s: depthwise_separable(s.channels, 3, s.stride, 2)),
    "dil_conv_5x5": Operation("relu", lambda s: depthwise_separable(s.channels, 5, s.stride, 2)),
    "nor_conv_1x1": Operation("relu", lambda s: _convolution(s.channels, 1, s.edges)),
    "nor_conv_3x3": Operation("relu", lambda s: _convolution(s.channels, 3, s.edges)),
}
"""Every operation but `none`, which nobody computes (Liu et al. 2019; Dong and Yang 2020)."""

_SKIP_OF_STRIDE_2 = Operation("relu", lambda s: [FactorizedReduce(s.channels, s.channels)])


def operation(name: str, stride: int) -> Operation:
    """The operation of a name; a skip connection that reduces is a `FactorizedReduce`."""
    if name == "skip_connect" and stride == 2:
        return _SKIP_OF_STRIDE_2
    return OPERATIONS[name]


class ScaledBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose output a supernet may multiply, channel by channel, at no further cost."""

    def forward(self, x_BCHW: Tensor, scale_C: Tensor | None = None) -> Tensor:
        """Normalised x, times the scale if there is one (for a BatchNorm without own weights)."""
        if scale_C is None:
            return super().forward(x_BCHW)
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if self.training:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x_BCHW,
            self.running_mean,
            self.running_var,
            # torch 2.13 on CPU, channels last: the backward pass reads an expanded scale as if its
            # entries lay side by side, and the gradient towards x is silently wrong
            scale_C.contiguous(),
            None,
            self.training,
            self.momentum,
            self.eps,
        )


class Weighted(nn.Module):
    """What an operation does with weights of its own: its layers, then its last BatchNorm.

    Args:
        name: a key of `OPERATIONS` whose operation has layers at this stride.
        channels: channels C of the source node and of the result.
        stride: 1 or 2.
        affine: BatchNorms with scale and shift (derived networks) or without (supernets).
        edges: how many edges with this operation are computed as one convolution with E times the
            channels (`nor_conv` alone); their results lie side by side.

    Shapes:
        input (B, C, H, W), prepared; output (B, E * C, H / stride, W / stride).
    """

    def __init__(
        self, name: str, channels: int, stride: int = 1, *, affine: bool, edges: int = 1
    ) -> None:
        super().__init__()
        layers = operation(name, stride).layers
        assert layers is not None, name
        self.layers = nn.Sequential(*layers(Shape(channels, stride, affine, edges)))
        self.norm = ScaledBatchNorm(edges * channels, affine=affine)

    def forward(self, prepared_BCHW: Tensor, scale_C: Tensor | None = None) -> Tensor:
        """The operation's result, times a scale if there is one."""
        out: Tensor = self.norm(self.layers(prepared_BCHW), scale_C)
        return out
