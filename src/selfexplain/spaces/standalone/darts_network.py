"""A network of the DARTS space (Liu, Simonyan and Yang, ICLR 2019) in plain PyTorch.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# begin: the network
NORMAL = [
    [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)],
    [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)],
    [("skip_connect", 0), ("sep_conv_3x3", 1)],
    [("skip_connect", 0), ("dil_conv_3x3", 2)],
]
REDUCE = [
    [("max_pool_3x3", 0), ("max_pool_3x3", 1)],
    [("max_pool_3x3", 1), ("skip_connect", 2)],
    [("max_pool_3x3", 0), ("skip_connect", 2)],
    [("max_pool_3x3", 1), ("skip_connect", 2)],
]
NORMAL_CONCAT, REDUCE_CONCAT = (2, 3, 4, 5), (2, 3, 4, 5)
NUM_CLASSES, IN_CHANNELS, CHANNELS, CELLS, FORM = 10, 3, 36, 20, "small"
# end: the network
# NORMAL, REDUCE: for each node after the inputs (nodes 0 and 1, the outputs of the two last cells)
# the two edges that are summed, as (operation, node). ..._CONCAT: the nodes of a cell's output.
# FORM: "small" for images of about 32 pixels, "imagenet" for large ones.


class FactorizedReduce(nn.Module):
    """Half the resolution by two 1x1 convolutions of every second pixel, the second one further on.

    The pixels are sliced first: on CPUs with AVX2 and without AVX-512, torch 2.13 writes outside of
    its memory in the backward pass of a strided 1x1 convolution of fewer than 8 channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features at half the resolution."""
        return torch.cat(
            [self.even(x_BCHW[:, :, ::2, ::2]), self.odd(x_BCHW[:, :, 1::2, 1::2])], dim=1
        )


def depthwise_separable(channels: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    """A convolution of each channel, then one across channels."""
    padding = dilation * (kernel // 2)
    return [
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
    ]


def layers_of(name: str, channels: int, stride: int) -> list[nn.Module]:
    """What an operation does between its ReLU and its last BatchNorm."""
    if name == "skip_connect":
        return [FactorizedReduce(channels, channels)]
    kernel = 5 if name.endswith("5x5") else 3
    if name.startswith("dil_conv"):
        return depthwise_separable(channels, kernel, stride, 2)
    return [
        *depthwise_separable(channels, kernel, stride, 1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        *depthwise_separable(channels, kernel, 1, 1),
    ]


class Weighted(nn.Module):
    """Layers with weights and a last BatchNorm."""

    def __init__(self, name: str, channels: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers_of(name, channels, stride))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Result (B, C, H / stride, W / stride)."""
        return self.norm(self.layers(x_BCHW))


class Edge(nn.Module):
    """One operation between two nodes; stride 2 where a reduction cell reads its inputs."""

    def __init__(self, name: str, channels: int, stride: int) -> None:
        super().__init__()
        self.name, self.stride = name, stride
        self.identity = name == "skip_connect" and stride == 1
        self.after = nn.Sequential()
        if not self.identity and not name.endswith("pool_3x3"):
            self.after.append(Weighted(name, channels, stride))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Result (B, C, H / stride, W / stride)."""
        if self.identity:
            return x_BCHW
        if self.name == "max_pool_3x3":
            return F.max_pool2d(x_BCHW, 3, self.stride, padding=1)
        if self.name == "avg_pool_3x3":
            return F.avg_pool2d(x_BCHW, 3, self.stride, padding=1, count_include_pad=False)
        return self.after(F.relu(x_BCHW))


class Inputs(nn.Module):
    """Brings the outputs of the two last cells to this cell's channels and resolution."""

    def __init__(self, second_last: int, last: int, channels: int, last_reduces: bool) -> None:
        super().__init__()
        if last_reduces:  # then the second last output has twice the resolution
            adapt: nn.Module = FactorizedReduce(second_last, channels)
        else:
            adapt = nn.Conv2d(second_last, channels, 1, bias=False)
        self.second_last = nn.Sequential(nn.ReLU(), adapt, nn.BatchNorm2d(channels))
        self.last = nn.Sequential(
            nn.ReLU(), nn.Conv2d(last, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, second_last_BCHW: Tensor, last_BCHW: Tensor) -> list[Tensor]:
        """The two input nodes."""
        return [self.second_last(second_last_BCHW), self.last(last_BCHW)]


class Edges(nn.Module):
    """All nodes of a cell, each the sum of its edges."""

    def __init__(self, cell: list[list[tuple[str, int]]], channels: int, reduces: bool) -> None:
        super().__init__()
        self.sources = [[source for _, source in node] for node in cell]
        self.nodes = nn.ModuleList(
            nn.ModuleList(Edge(name, channels, 2 if reduces and s < 2 else 1) for name, s in node)
            for node in cell
        )

    def forward(self, nodes: list[Tensor]) -> list[Tensor]:
        """The inputs and all other nodes."""
        for sources, edges in zip(self.sources, self.nodes, strict=True):
            arrived = [edge(nodes[s]) for edge, s in zip(edges, sources, strict=True)]
            nodes = [*nodes, sum(arrived)]
        return nodes


class Cell(nn.Module):
    """A cell reads the outputs of the two before it."""

    def __init__(
        self, second_last: int, last: int, channels: int, reduces: bool, last_reduces: bool
    ) -> None:
        super().__init__()
        self.inputs = Inputs(second_last, last, channels, last_reduces)
        self.edges = Edges(REDUCE if reduces else NORMAL, channels, reduces)
        self.concat = REDUCE_CONCAT if reduces else NORMAL_CONCAT

    def forward(self, second_last_BCHW: Tensor, last_BCHW: Tensor) -> Tensor:
        """The nodes of the output, side by side: (B, 4 C, H, W)."""
        nodes = self.edges(self.inputs(second_last_BCHW, last_BCHW))
        return torch.cat([nodes[number] for number in self.concat], dim=1)


def conv_bn(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """Layers in the order of their name."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class SmallStem(nn.Module):
    """One convolution; both inputs of the first cell."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.reduces_last = 3 * CHANNELS, False
        self.layers = nn.Sequential(*conv_bn(IN_CHANNELS, self.channels, 1))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The same features twice."""
        h = self.layers(x_BCHW)
        return h, h


class ImageNetStem(nn.Module):
    """Three convolutions of stride 2; the first cell reads what the last two return."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.reduces_last = CHANNELS, True
        half = CHANNELS // 2
        self.first = nn.Sequential(
            *conv_bn(IN_CHANNELS, half, 2), nn.ReLU(), *conv_bn(half, CHANNELS, 2)
        )
        self.second = nn.Sequential(nn.ReLU(), *conv_bn(CHANNELS, CHANNELS, 2))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features at a quarter and at an eighth of the resolution."""
        h = self.first(x_BCHW)
        return h, self.second(h)


class Network(nn.Module):
    """Stem, cells, pooled linear head; the cells at one and two thirds of the depth reduce."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SmallStem() if FORM == "small" else ImageNetStem()
        second_last = last = self.stem.channels
        channels, last_reduces = CHANNELS, self.stem.reduces_last
        self.cells = nn.ModuleList()
        for number in range(CELLS):
            reduces = number in (CELLS // 3, 2 * CELLS // 3)
            channels = 2 * channels if reduces else channels
            self.cells.append(Cell(second_last, last, channels, reduces, last_reduces))
            second_last, last, last_reduces = last, 4 * channels, reduces
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(last, NUM_CLASSES)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, H, W)."""
        second_last, last = self.stem(x_BCHW)
        for cell in self.cells:
            second_last, last = last, cell(second_last, last)
        return self.head(self.pool(last).flatten(1))
