"""The candidate operations of a cell, each cut in two where a supernet can share its first part.

An operation first *prepares* its source node, without weights (ReLU or a pooling), and then works
on that with weights of its own: convolutions and a last BatchNorm. All operations that leave a node
with the same preparation can share it.

Shape suffixes: B batch, C channels, H and W space, E edges, k kernel.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.spaces.space import check_probability

# Layers that the operations of a cell are made of, each for several edges at once if need be.


class FactorizedReduce(nn.Module):
    """Halve the resolution: two 1x1 convolutions of every second pixel, the second one further on.

    Together they see half of the pixels, where a single one would see a quarter.

    Args:
        inputs: channels of the input.
        outputs: channels of the output of each edge, even.
        edges: number E of edges, whose results lie side by side.

    Shapes:
        input (B, inputs, H, W), H and W even; output (B, E * outputs, H / 2, W / 2).
    """

    def __init__(self, inputs: int, outputs: int, edges: int = 1) -> None:
        super().__init__()
        self.edges = edges
        self.even = nn.Conv2d(inputs, edges * outputs // 2, 1, bias=False)
        self.odd = nn.Conv2d(inputs, edges * outputs // 2, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features at half the resolution."""
        # pixels are picked before, as a stride damages memory (models/pointwise.py)
        even, odd = self.even(x_BCHW[:, :, ::2, ::2]), self.odd(x_BCHW[:, :, 1::2, 1::2])
        halves = zip(even.chunk(self.edges, dim=1), odd.chunk(self.edges, dim=1), strict=True)
        return torch.cat([half for pair in halves for half in pair], dim=1)


class Repeat(nn.Module):
    """The same channels once for every edge, side by side."""

    def __init__(self, edges: int) -> None:
        super().__init__()
        self.edges = edges

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features (B, E * C, H, W)."""
        # not x.repeat, which forgets that channels lie last in memory
        return torch.cat([x_BCHW] * self.edges, dim=1)


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


class OperationShape(NamedTuple):
    """What the weights of an operation depend on."""

    channels: int
    stride: int
    affine: bool
    edges: int


def _depthwise_separable(
    shape: OperationShape, kernel: int, stride: int, dilation: int
) -> list[nn.Module]:
    channels = shape.edges * shape.channels
    return [
        DepthwiseConv2d(channels, kernel, stride, dilation),
        nn.Conv2d(channels, channels, 1, groups=shape.edges, bias=False),
    ]


def _repeat(shape: OperationShape) -> list[nn.Module]:
    return [Repeat(shape.edges)] if shape.edges > 1 else []


def _separable(shape: OperationShape, kernel: int) -> list[nn.Module]:
    return [
        *_repeat(shape),
        *_depthwise_separable(shape, kernel, shape.stride, dilation=1),
        nn.BatchNorm2d(shape.edges * shape.channels, affine=shape.affine),
        nn.ReLU(),
        *_depthwise_separable(shape, kernel, stride=1, dilation=1),
    ]


def _dilated(shape: OperationShape, kernel: int) -> list[nn.Module]:
    return [*_repeat(shape), *_depthwise_separable(shape, kernel, shape.stride, dilation=2)]


def _convolution(shape: OperationShape, kernel: int) -> list[nn.Module]:
    outputs = shape.edges * shape.channels
    return [nn.Conv2d(shape.channels, outputs, kernel, padding=kernel // 2, bias=False)]


class Operation(NamedTuple):
    """Name of the preparation, and the layers between it and the last BatchNorm (None: neither)."""

    preparation: str
    layers: Callable[[OperationShape], list[nn.Module]] | None = None


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
        self.layers = nn.Sequential(*layers(OperationShape(channels, stride, affine, edges)))
        self.norm = ScaledBatchNorm(edges * channels, affine=affine)

    def forward(self, prepared_BCHW: Tensor, scale_C: Tensor | None = None) -> Tensor:
        """The operation's result, times a scale if there is one."""
        out: Tensor = self.norm(self.layers(prepared_BCHW), scale_C)
        return out


# Drop-path: leave out single operations, sample by sample (Larsson et al., ICLR 2017).


class DropPath(nn.Module):
    """In training, zero for some samples of the batch; the others are scaled up to keep the mean.

    Attributes:
        probability: that a sample's path is dropped.

    Shapes:
        input and output (B, C, H, W).
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The input, without the paths that are dropped."""
        if not self.training or self.probability == 0:
            return x_BCHW
        keep = 1 - self.probability
        kept_B111 = x_BCHW.new_empty((x_BCHW.shape[0], 1, 1, 1)).bernoulli_(keep)
        return x_BCHW * (kept_B111 / keep)


def set_drop_path(network: nn.Module, probability: float) -> None:
    """Set the probability of every `DropPath` in a network, as trainers do before each epoch.

    DARTS raises it linearly, `set_drop_path(network, 0.2 * epoch / epochs)`.

    Args:
        network: a network of `build_network`, or a module that contains one; other modules, and
            identity skips, have no path to drop and stay as they are.
        probability: that an operation's output is dropped for a sample, in [0, 1).

    Raises:
        InputError: the probability is outside [0, 1).

    Example:
        >>> layer = DropPath()
        >>> set_drop_path(nn.Sequential(layer), 0.1)
        >>> layer.probability
        0.1
    """
    check_probability(probability)
    for module in network.modules():
        if isinstance(module, DropPath):
            module.probability = probability


# Gradients of depthwise convolutions of stride 1, made of operations that a CPU has fast code
# for.


FAST_COLUMNS = 3
"""Columns of a kernel up to which the gradient towards the kernel is fast."""


def same_convolution(x_BCHW: Tensor, kernel_C1kk: Tensor, dilation: int, stride: int = 1) -> Tensor:
    """Depthwise convolution with zero padding that keeps the size at stride 1."""
    padding = dilation * (kernel_C1kk.shape[-1] // 2)
    return F.conv2d(x_BCHW, kernel_C1kk, None, stride, padding, dilation, x_BCHW.shape[1])


def input_gradient(
    gradient_BCHW: Tensor, x_BCHW: Tensor, kernel_C1kk: Tensor, dilation: int
) -> Tensor:
    """Gradient (B, C, H, W) towards the input of a depthwise convolution of stride 1."""
    if dilation > 1:  # the transpose of a convolution is one with the kernel turned round
        return same_convolution(gradient_BCHW, kernel_C1kk.flip(2, 3), dilation)
    padding = kernel_C1kk.shape[-1] // 2
    return _gradients(gradient_BCHW, x_BCHW, kernel_C1kk, (padding, padding), towards=0)


def kernel_gradient(
    gradient_BCHW: Tensor, x_BCHW: Tensor, kernel_C1kk: Tensor, dilation: int
) -> Tensor:
    """Gradient (C, 1, k, k) towards the kernels of a depthwise convolution of stride 1.

    A convolution of dilation 2 is an undilated one on each of the four grids of every second pixel;
    and the columns of a wide kernel have their gradients each for itself, so a few can be asked for
    at a time. Of the kernels the shape alone matters.
    """
    gradient_BCHW, x_BCHW = _channels_last(gradient_BCHW), _channels_last(x_BCHW)
    if dilation == 2:
        gradient_BCHW, x_BCHW = quarters(gradient_BCHW), quarters(x_BCHW)
    size, width = kernel_C1kk.shape[-1], x_BCHW.shape[-1]
    half = size // 2
    if size <= FAST_COLUMNS:
        return _gradients(gradient_BCHW, x_BCHW, kernel_C1kk, (half, half), towards=1)
    padded_BCHW = F.pad(x_BCHW, (half, half))
    found = []
    for start in range(0, size, FAST_COLUMNS):
        columns = kernel_C1kk[..., start : start + FAST_COLUMNS]
        seen_BCHW = padded_BCHW[..., start : start + width + columns.shape[-1] - 1]
        found.append(_gradients(gradient_BCHW, seen_BCHW, columns, (half, 0), towards=1))
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
        stride, dilation = self.stride[0], self.dilation[0]
        if stride == dilation == 2:  # every pixel that is read has even coordinates
            x_BCHW, stride, dilation = x_BCHW[:, :, ::2, ::2], 1, 1
        on_cpu = x_BCHW.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if on_cpu and stride == 1 and (dilation > 1 or self.kernel_size[0] > FAST_COLUMNS):
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
