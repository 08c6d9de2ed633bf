"""Layers that the operations of a cell are made of, each for several edges at once if need be.

Shape suffixes: B batch, C channels, H and W space, E edges.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.models.pointwise import PointwiseConv2d


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
        self.even = PointwiseConv2d(inputs, edges * outputs // 2, step=2)
        self.odd = PointwiseConv2d(inputs, edges * outputs // 2, step=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features at half the resolution."""
        even, odd = self.even(x_BCHW), self.odd(x_BCHW[:, :, 1:, 1:])
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
