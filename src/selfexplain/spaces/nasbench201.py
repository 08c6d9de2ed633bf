"""The supernet and the networks of NAS-Bench-201 (Dong and Yang, ICLR 2020), and of its sub-space.

Shape suffixes: B batch, C channels, H and W space, K classes, E edges, O operations.
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from selfexplain.models.recompute import recomputed, recomputes
from selfexplain.spaces.genotype import FAMILIES, Cell, Edge, Genotype, edges_of
from selfexplain.spaces.network import Edges
from selfexplain.spaces.space import Form
from selfexplain.spaces.supernet import (
    MixedOp,
    Supernet,
    as_it_is,
    picked,
    propagate,
    rows_by_source,
)

# The macro skeleton around the cells of NAS-Bench-201 (Dong and Yang, ICLR 2020, section 2.1).


class ResidualReduction(nn.Module):
    """Residual block between two stages: half the resolution, twice the channels.

    Shapes:
        input (B, C, H, W), H and W even; output (B, 2 C, H / 2, W / 2).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_relu_conv_bn(channels, 2 * channels, stride=2),
            *_relu_conv_bn(2 * channels, 2 * channels, stride=1),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features of the next stage."""
        out: Tensor = self.convolutions(x_BCHW) + self.shortcut(x_BCHW)
        return out


def _relu_conv_bn(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class NASBench201Network(nn.Module):
    """Stem, three stages of cells with residual reductions between them, pooled linear head.

    Args:
        make_cell: makes a cell with this many channels.
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

    def forward(self, x_BCHW: Tensor, *for_cells: Tensor) -> Tensor:
        """Logits (B, K); what comes after the images is handed to every cell."""
        h = self.stem(x_BCHW)
        for block in self.blocks:
            h = block(h) if isinstance(block, ResidualReduction) else block(h, *for_cells)
        logits_BK: Tensor = self.head(self.pool(self.norm(h)).flatten(1))
        return logits_BK


class MixedCell(nn.Module):
    """A cell in which every edge is the weighted sum of all operations.

    Args:
        channels: channels C.
        family: nasbench201, or tiny201, which lacks the last node.

    Shapes:
        input (B, C, H, W) and weights (E, 5), a row for each of the edges 1<-0, 2<-0, 2<-1 and, in
        nasbench201, 3<-0, 3<-1, 3<-2; output (B, C, H, W).
    """

    def __init__(self, channels: int, family: str = "nasbench201") -> None:
        super().__init__()
        self.rows = rows_by_source(family)
        # all edges read the same features, so one dense convolution with more outputs serves all
        self.senders = nn.ModuleList(
            MixedOp(family, channels, len(rows), bundled=True) for rows in self.rows
        )

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> Tensor:
        """The last node."""
        if recomputes():
            return recomputed(self, x_BCHW, weights_EO)
        senders = (
            partial(sender, weights_EO=picked(weights_EO, rows, 0))
            for sender, rows in zip(self.senders, self.rows, strict=True)
        )
        return propagate([x_BCHW], senders, as_it_is)[-1]


def best_of_every_edge(weights_EO: Tensor, family: str = "nasbench201") -> Cell:
    """NAS-Bench-201's rule: on every edge the heaviest of all five operations; (E, 5) -> cell."""
    best, rules = weights_EO.detach().argmax(dim=1).tolist(), FAMILIES[family]
    nodes = []
    for number in range(rules.inputs, rules.inputs + rules.nodes):
        chosen, best = best[:number], best[number:]
        nodes.append(tuple(Edge(rules.operations[o], source) for source, o in enumerate(chosen)))
    return Cell(tuple(nodes), rules.concat)


class NASBench201Supernet(Supernet):
    """The supernet of NAS-Bench-201, whose architecture is {"cell": (6, 5)}, or of tiny201: (3, 5).

    Args:
        family: nasbench201 or tiny201.
        num_classes: number of classes K.
        in_channels: channels of the images.
        channels: channels of the first stage.
        cells: cells of each stage.
    """

    def __init__(
        self, *, family: str, num_classes: int, in_channels: int, channels: int, cells: int
    ) -> None:
        super().__init__()
        self.family = family
        operations = FAMILIES[family].operations
        self.architecture_shapes = {"cell": (len(edges_of(family)), len(operations))}
        self.network = NASBench201Network(
            partial(MixedCell, family=family),
            num_classes=num_classes,
            in_channels=in_channels,
            channels=channels,
            cells=cells,
        )

    def forward(self, x_BCHW: Tensor, architecture: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        architecture = self.checked(architecture, x_BCHW)
        logits_BK: Tensor = self.network(x_BCHW, architecture["cell"].softmax(dim=-1))
        return logits_BK

    def genotype(self, architecture: Mapping[str, Tensor]) -> Genotype:
        """The cell with the heaviest operation on every edge, `none` among them."""
        architecture = self.checked(architecture)
        cell = best_of_every_edge(architecture["cell"], self.family)
        return Genotype(self.family, {"cell": cell})


# The network of a genotype.


class NASBench201Cell(nn.Module):
    """A discrete cell of NAS-Bench-201.

    Shapes:
        input and output (B, C, H, W).
    """

    def __init__(self, cell: Cell, channels: int) -> None:
        super().__init__()
        self.edges = Edges(cell, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The last node."""
        nodes: list[Tensor] = self.edges([x_BCHW])
        return nodes[-1]


def derived_network(
    genotype: Genotype,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    channels: int,
    cells: int,
    form: Form,
    auxiliary: bool,
) -> NASBench201Network:
    """The network of a genotype, in its one form, for images of any size."""
    del image_size, form, auxiliary
    return NASBench201Network(
        partial(NASBench201Cell, genotype.cells["cell"]),
        num_classes=num_classes,
        in_channels=in_channels,
        channels=channels,
        cells=cells,
    )
