"""The candidate operations of a cell, each cut in two where a supernet can share its first part.

An operation first *prepares* its source node, without weights (ReLU or a pooling), and then works
on that with weights of its own: convolutions and a last BatchNorm. All operations that leave a node
with the same preparation can share it.

Shape suffixes: B batch, C channels, H and W space.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.spaces.depthwise import DepthwiseConv2d
from selfexplain.spaces.layers import FactorizedReduce, Repeat, ScaledBatchNorm

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


class Shape(NamedTuple):
    """What the weights of an operation depend on."""

    channels: int
    stride: int
    affine: bool
    edges: int


def _depthwise_separable(shape: Shape, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    channels = shape.edges * shape.channels
    return [
        DepthwiseConv2d(channels, kernel, stride, dilation),
        nn.Conv2d(channels, channels, 1, groups=shape.edges, bias=False),
    ]


def _repeat(shape: Shape) -> list[nn.Module]:
    return [Repeat(shape.edges)] if shape.edges > 1 else []


def _separable(shape: Shape, kernel: int) -> list[nn.Module]:
    return [
        *_repeat(shape),
        *_depthwise_separable(shape, kernel, shape.stride, dilation=1),
        nn.BatchNorm2d(shape.edges * shape.channels, affine=shape.affine),
        nn.ReLU(),
        *_depthwise_separable(shape, kernel, stride=1, dilation=1),
    ]


def _dilated(shape: Shape, kernel: int) -> list[nn.Module]:
    return [*_repeat(shape), *_depthwise_separable(shape, kernel, shape.stride, dilation=2)]


def _convolution(shape: Shape, kernel: int) -> list[nn.Module]:
    outputs = shape.edges * shape.channels
    return [nn.Conv2d(shape.channels, outputs, kernel, padding=kernel // 2, bias=False)]


class Operation(NamedTuple):
    """Name of the preparation, and the layers between it and the last BatchNorm (None: neither)."""

    preparation: str
    layers: Callable[[Shape], list[nn.Module]] | None = None


OPERATIONS: dict[str, Operation] = {
    "max_pool_3x3": Operation("max_pool"),
    "avg_pool_3x3": Operation("avg_pool"),
    "skip_connect": Operation("identity"),
    "sep_conv_3x3": Operation("relu", lambda s: _separable(s, 3)),
    "sep_conv_5x5": Operation("relu", lambda s: _separable(s, 5)),
    "dil_conv_3x3": Operation("relu", lambda s: _dilated(s, 3)),
    "dil_conv_5x5": Operation("relu", lambda s: _dilated(s, 5)),
    "nor_conv_1x1": Operation("relu", lambda s: _convolution(s, 1)),
    "nor_conv_3x3": Operation("relu", lambda s: _convolution(s, 3)),
}
"""Every operation but `none`, which nobody computes (Liu et al. 2019; Dong and Yang 2020)."""

_SKIP_OF_STRIDE_2 = Operation("relu", lambda s: [FactorizedReduce(s.channels, s.channels, s.edges)])


def operation(name: str, stride: int) -> Operation:
    """The operation of a name; a skip connection that reduces is a `FactorizedReduce`."""
    if name == "skip_connect" and stride == 2:
        return _SKIP_OF_STRIDE_2
    return OPERATIONS[name]


class Weighted(nn.Module):
    """What an operation does with weights of its own: its layers, then its last BatchNorm.

    Args:
        name: a key of `OPERATIONS` whose operation has layers at this stride.
        channels: channels C of the source node and of the result.
        stride: 1 or 2.
        affine: BatchNorms with scale and shift (derived networks) or without (supernets).
        edges: number E of edges with this operation that are computed together, each with weights
            of its own; their results lie side by side.

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
