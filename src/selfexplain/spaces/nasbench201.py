"""The space of NAS-Bench-201 (Dong and Yang, ICLR 2020): its skeleton and its supernet.

Shape suffixes: B batch, C channels, H and W space, K classes, E edges, O operations.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from selfexplain.spaces.derive import best_of_every_edge
from selfexplain.spaces.genotype import FAMILIES, Genotype
from selfexplain.spaces.operations import PREPARATIONS, Weighted
from selfexplain.spaces.supernet import Supernet, check_architecture

NODES = FAMILIES["nasbench201"].nodes
OPERATIONS = FAMILIES["nasbench201"].operations
EDGES = [(source, target) for target in range(1, NODES + 1) for source in range(target)]


def relu_conv_bn(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """ReLU, 3x3 convolution, BatchNorm."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ResidualReduction(nn.Module):
    """Residual block between two stages: half the resolution, twice the channels.

    Shapes:
        input (B, C, H, W), H and W even; output (B, 2 C, H / 2, W / 2).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            relu_conv_bn(channels, 2 * channels, stride=2),
            relu_conv_bn(2 * channels, 2 * channels, stride=1),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features of the next stage."""
        out: Tensor = self.convolutions(x_BCHW) + self.shortcut(x_BCHW)
        return out


class Skeleton(nn.Module):
    """Stem, three stages of cells with residual reductions between them, pooled linear head.

    Args:
        make_cell: makes a cell of so many channels.
        num_classes: number of classes K.
        in_channels: channels of the images.
        channels: channels of the first stage.
        cells: cells N of each stage.

    Shapes:
        input (B, C, H, W), H and W divisible by 4; output (B, K) logits.
    """

    def __init__(
        self,
        make_cell: Callable[[int], nn.Module],
        *,
        num_classes: int,
        in_channels: int,
        channels: int,
        cells: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        blocks: list[nn.Module] = []
        for stage in range(3):
            if stage > 0:
                blocks.append(ResidualReduction(channels))
                channels *= 2
            blocks.extend(make_cell(channels) for _ in range(cells))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x_BCHW: Tensor, *of_cells: Tensor) -> Tensor:
        """Logits (B, K); what comes after the images is passed on to every cell."""
        h = self.stem(x_BCHW)
        for block in self.blocks:
            h = block(h) if isinstance(block, ResidualReduction) else block(h, *of_cells)
        logits_BK: Tensor = self.head(self.pool(self.norm(h)).flatten(1))
        return logits_BK


class Outgoing(nn.Module):
    """All operations on all edges that leave one node, of C channels, for E later nodes.

    The ReLU and the average pooling have no weights, so one is enough for all edges; and the
    convolutions of the edges read the same features, so they are one convolution with E times the
    output channels, the weights of the edges side by side.
    """

    def __init__(self, channels: int, edges: int) -> None:
        super().__init__()
        self.edges = edges
        self.weighted = nn.ModuleDict(
            {
                name: Weighted(name, channels, affine=False, edges=edges)
                for name in ("nor_conv_1x1", "nor_conv_3x3")
            }
        )

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> Tensor:
        """What the node sends to each later node, (B, E, C, H, W)."""
        channels = x_BCHW.shape[1]
        weight_E = dict(zip(OPERATIONS, weights_EO.unbind(1), strict=True))
        active = PREPARATIONS["relu"](x_BCHW, 1)
        pooled = PREPARATIONS["avg_pool"](x_BCHW, 1)
        convolved = [
            module(active, weight_E[name].repeat_interleave(channels))
            for name, module in self.weighted.items()
        ]
        sent_BECHW: Tensor = (convolved[0] + convolved[1]).unflatten(1, (self.edges, channels))
        plain = {"skip_connect": x_BCHW, "avg_pool_3x3": pooled}
        for name, h_BCHW in plain.items():
            sent_BECHW = sent_BECHW.addcmul(h_BCHW[:, None], weight_E[name][:, None, None, None])
        return sent_BECHW


class MixedCell(nn.Module):
    """A cell in which every edge is the weighted sum of all operations.

    Shapes:
        input (B, C, H, W) and weights (6, 5), one row for each of the edges 1<-0, 2<-0, 2<-1, 3<-0,
        3<-1, 3<-2; output (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.outgoing = nn.ModuleList(
            Outgoing(channels, edges=NODES - source) for source in range(NODES)
        )
        self.rows = [[i for i, edge in enumerate(EDGES) if edge[0] == n] for n in range(NODES)]

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> Tensor:
        """The last node."""
        nodes: list[Tensor] = []  # sums of what has arrived at nodes still to come
        node = x_BCHW
        for outgoing, rows in zip(self.outgoing, self.rows, strict=True):
            sent = outgoing(node, weights_EO[rows]).unbind(1)
            nodes = [a + b for a, b in zip(nodes, sent, strict=True)] if nodes else list(sent)
            node = nodes.pop(0)
        return node


class NASBench201Supernet(Supernet):
    """The supernet of NAS-Bench-201; its architecture is {"cell": (6, 5)}.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        channels: channels of the first stage.
        cells: cells N of each of the three stages.
    """

    family = "nasbench201"
    architecture_shapes: Mapping[str, tuple[int, ...]] = {"cell": (len(EDGES), len(OPERATIONS))}

    def __init__(self, *, num_classes: int, in_channels: int, channels: int, cells: int) -> None:
        super().__init__()
        self.network = Skeleton(
            MixedCell,
            num_classes=num_classes,
            in_channels=in_channels,
            channels=channels,
            cells=cells,
        )

    def forward(self, x_BCHW: Tensor, architecture: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        check_architecture(architecture, self.architecture_shapes)
        logits_BK: Tensor = self.network(x_BCHW, architecture["cell"].softmax(dim=-1))
        return logits_BK

    def genotype(self, architecture: Mapping[str, Tensor]) -> Genotype:
        """The cell with the heaviest operation on every edge, `none` among them."""
        check_architecture(architecture, self.architecture_shapes)
        return Genotype("nasbench201", {"cell": best_of_every_edge(architecture["cell"])})
