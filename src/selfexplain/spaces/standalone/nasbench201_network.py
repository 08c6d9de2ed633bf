"""A network of NAS-Bench-201 (Dong and Yang, ICLR 2020) in plain PyTorch.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# begin: the network
CELL = [
    [("nor_conv_3x3", 0)],
    [("skip_connect", 0), ("nor_conv_1x1", 1)],
    [("avg_pool_3x3", 0), ("nor_conv_3x3", 1), ("skip_connect", 2)],
]
NUM_CLASSES, IN_CHANNELS, CHANNELS, CELLS = 10, 3, 16, 5
# end: the network
# CELL: for each node after the input (node 0) the edges that are summed, as (operation, node).
# CELLS: cells in each of the three stages.


class Edge(nn.Module):
    """One operation: ReLU, convolution and BatchNorm; or a pooling; or the node itself."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.name = name
        self.after = nn.Sequential()
        if name.startswith("nor_conv"):
            kernel = 3 if name == "nor_conv_3x3" else 1
            convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
            self.after.append(Weighted(convolution, nn.BatchNorm2d(channels)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Result of the same shape."""
        if self.name == "avg_pool_3x3":
            return F.avg_pool2d(x_BCHW, 3, 1, padding=1, count_include_pad=False)
        if self.name == "skip_connect":
            return x_BCHW
        return self.after(F.relu(x_BCHW))


class Weighted(nn.Module):
    """A convolution and its BatchNorm."""

    def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(convolution)
        self.norm = norm

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Result of the same shape."""
        return self.norm(self.layers(x_BCHW))


class Edges(nn.Module):
    """All nodes of a cell, each the sum of its edges."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sources = [[source for _, source in node] for node in CELL]
        self.nodes = nn.ModuleList(
            nn.ModuleList(Edge(name, channels) for name, _ in node) for node in CELL
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The last node."""
        nodes = [x_BCHW]
        for sources, edges in zip(self.sources, self.nodes, strict=True):
            arrived = [edge(nodes[source]) for edge, source in zip(edges, sources, strict=True)]
            nodes.append(sum(arrived) if arrived else torch.zeros_like(x_BCHW))
        return nodes[-1]


class Cell(nn.Module):
    """A cell keeps the shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = Edges(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Result of the same shape."""
        return self.edges(x_BCHW)


def relu_conv_bn(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """Layers in the order of their name."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [nn.ReLU(), convolution, nn.BatchNorm2d(outputs)]


class Reduction(nn.Module):
    """Residual block between two stages: half the resolution, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *relu_conv_bn(channels, 2 * channels, 2), *relu_conv_bn(2 * channels, 2 * channels, 1)
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features of the next stage."""
        return self.convolutions(x_BCHW) + self.shortcut(x_BCHW)


class Network(nn.Module):
    """Stem, three stages of cells with reductions between them, pooled linear head."""

    def __init__(self) -> None:
        super().__init__()
        channels = CHANNELS
        self.stem = nn.Sequential(
            nn.Conv2d(IN_CHANNELS, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.blocks = nn.ModuleList()
        for stage in range(3):
            if stage > 0:
                self.blocks.append(Reduction(channels))
                channels *= 2
            self.blocks.extend(Cell(channels) for _ in range(CELLS))
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, NUM_CLASSES)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, H, W), H and W divisible by 4."""
        h = self.stem(x_BCHW)
        for block in self.blocks:
            h = block(h)
        return self.head(self.pool(self.norm(h)).flatten(1))
