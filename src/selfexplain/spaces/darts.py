"""The supernets and networks of DARTS (Liu et al., ICLR 2019) and PC-DARTS (Xu et al., ICLR 2020).

PC-DARTS sends a quarter of a node's channels through the mixed operation; the others go past it
(max-pooled where the edge reduces), a channel shuffle follows, and edges have weights of their own.

Shape suffixes: B batch, C channels, H and W space, K classes, E edges, O operations.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.models.recompute import recomputed, recomputes
from selfexplain.spaces.genotype import Cell, Edge, Genotype, edges_of
from selfexplain.spaces.network import Edges
from selfexplain.spaces.operations import FactorizedReduce
from selfexplain.spaces.registry import DARTS
from selfexplain.spaces.space import Form
from selfexplain.spaces.supernet import (
    MixedOp,
    Supernet,
    Terms,
    as_it_is,
    combinations,
    picked,
    propagate,
    rows_by_source,
)

# What surrounds the cells of DARTS: stems and auxiliary heads (Liu et al. 2019).


class SmallStem(nn.Module):
    """One 3x3 convolution to three times the channels; both inputs of the first cell.

    Attributes:
        channels: of both outputs.
        reduces_last: the second output has half the resolution of the first.
        halvings: how often the resolution is halved in all.
    """

    reduces_last = False
    halvings = 0

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = 3 * channels
        self.layers = nn.Sequential(*_conv_bn(in_channels, self.channels, stride=1))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 3 C, H, W), twice."""
        h = self.layers(x_BCHW)
        return h, h


class ImageNetStem(nn.Module):
    """Three 3x3 convolutions of stride 2; the first cell reads what the last two of them return.

    Attributes are those of `SmallStem`.
    """

    reduces_last = True
    halvings = 3

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Sequential(
            *_conv_bn(in_channels, channels // 2, stride=2),
            nn.ReLU(),
            *_conv_bn(channels // 2, channels, stride=2),
        )
        self.second = nn.Sequential(nn.ReLU(), *_conv_bn(channels, channels, stride=2))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, H / 4, W / 4) and (B, C, H / 8, W / 8)."""
        h = self.first(x_BCHW)
        return h, self.second(h)


STEMS: Mapping[Form, type[SmallStem | ImageNetStem]] = {
    "small": SmallStem,
    "imagenet": ImageNetStem,
}


def _conv_bn(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class AuxiliaryHead(nn.Module):
    """Logits from features in the middle of the network, an aid to its training.

    The published head fits one size of features; here an average over what is left of the space
    makes it fit larger ones, and changes nothing at the published size.

    Args:
        channels: channels C of the features.
        num_classes: number of classes K.
        stride: of the pooling: 3 in the small form, 2 in the ImageNet form.
        second_norm: a BatchNorm after the second convolution: the small form alone has one.

    Shapes:
        input (B, C, H, W) with H, W at least 5 + stride; output (B, K).
    """

    def __init__(self, channels: int, num_classes: int, *, stride: int, second_norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=stride),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768) if second_norm else nn.Identity(),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(768, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of features (B, C, H, W)."""
        logits_BK: Tensor = self.head(self.features(x_BCHW).flatten(1))
        return logits_BK


# The macro skeleton around the cells of DARTS (Liu, Simonyan, Yang, ICLR 2019, section 3.1).


class CellShape(NamedTuple):
    """Where a cell stands: channels of the two outputs before it, its own, and which reduce."""

    second_last: int
    last: int
    channels: int
    reduces: bool
    last_reduces: bool


def reductions(cells: int) -> set[int]:
    """Numbers of the cells that halve the resolution: those at one and two thirds of the depth."""
    return {cells // 3, 2 * cells // 3}


class CellInputs(nn.Module):
    """Brings the outputs of the two last cells to the channels and resolution of this one.

    Its BatchNorms have scale and shift if `affine`, as in derived networks, not in supernets.
    """

    def __init__(self, shape: CellShape, *, affine: bool) -> None:
        super().__init__()
        adapt: nn.Module = nn.Conv2d(shape.second_last, shape.channels, 1, bias=False)
        if shape.last_reduces:  # then the second last output has twice the resolution
            adapt = FactorizedReduce(shape.second_last, shape.channels)
        self.second_last = nn.Sequential(
            nn.ReLU(), adapt, nn.BatchNorm2d(shape.channels, affine=affine)
        )
        self.last = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(shape.last, shape.channels, 1, bias=False),
            nn.BatchNorm2d(shape.channels, affine=affine),
        )

    def forward(self, second_last_BCHW: Tensor, last_BCHW: Tensor) -> list[Tensor]:
        """The two input nodes of the cell, of equal shape."""
        return [self.second_last(second_last_BCHW), self.last(last_BCHW)]


class DARTSNetwork(nn.Module):
    """Stem, cells that each read the two outputs before them, pooled linear head.

    Args:
        make_cell: makes the cell that stands at a place.
        stem: maps images to the two inputs of the first cell.
        num_classes: number of classes K.
        channels: channels of the first cells.
        cells: number of cells.
        auxiliary: makes, from its input channels, a second head on the features after two thirds of
            the cells. It is the submodule `auxiliary`, runs in training only; to read
            its logits, register a forward hook.

    Shapes:
        input (B, C, H, W); output (B, K) logits.
    """

    def __init__(
        self,
        make_cell: Callable[[CellShape], nn.Module],
        stem: SmallStem | ImageNetStem,
        *,
        num_classes: int,
        channels: int,
        cells: int,
        auxiliary: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        second_last = last = stem.channels
        last_reduces = stem.reduces_last
        made: list[nn.Module] = []
        self.reduces = [number in reductions(cells) for number in range(cells)]
        for reduces in self.reduces:
            channels = 2 * channels if reduces else channels
            made.append(make_cell(CellShape(second_last, last, channels, reduces, last_reduces)))
            second_last, last, last_reduces = last, 4 * channels, reduces
        self.cells = nn.ModuleList(made)
        self.auxiliary_after = 2 * cells // 3
        # here the channels have doubled for the last time, so they are those of the output
        self.auxiliary = None if auxiliary is None else auxiliary(last)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(last, num_classes)

    def forward(
        self, x_BCHW: Tensor, for_normal: Sequence[Tensor] = (), for_reduce: Sequence[Tensor] = ()
    ) -> Tensor:
        """Logits (B, K); the rest is handed to every normal and every reduction cell."""
        second_last, last = self.stem(x_BCHW)
        for number, cell in enumerate(self.cells):
            for_cell = for_reduce if self.reduces[number] else for_normal
            second_last, last = last, cell(second_last, last, *for_cell)
            if self.training and self.auxiliary is not None and number == self.auxiliary_after:
                self.auxiliary(last)
        logits_BK: Tensor = self.head(self.pool(last).flatten(1))
        return logits_BK


# The mixed cell of DARTS (Liu, Simonyan, Yang, ICLR 2019, section 2.2).


FAMILY, RULES = DARTS.family, DARTS.rules


class MixedCell(nn.Module):
    """A cell in which every edge is the weighted sum of all operations.

    Args:
        shape: where the cell stands.
        make_sender: makes, from channels, edges and stride, what sends for a node; it is called
            with the node and, from each tensor of weights, the rows of the node's edges.
        join: makes a node of what arrives there.

    Shapes:
        input: the outputs of the two last cells, and weights (14, ...), a row for each of the edges
        2<-0, 2<-1, 3<-0, .. 5<-4; output (B, 4 C, H, W), at half the resolution if it reduces.
    """

    def __init__(
        self,
        shape: CellShape,
        make_sender: Callable[[int, int, int], nn.Module],
        join: Callable[..., Tensor] = as_it_is,
    ) -> None:
        super().__init__()
        self.inputs = CellInputs(shape, affine=False)
        self.join = join
        self.rows = rows_by_source(FAMILY)
        self.senders = nn.ModuleList(
            make_sender(
                shape.channels, len(rows), 2 if shape.reduces and source < RULES.inputs else 1
            )
            for source, rows in enumerate(self.rows)
        )

    def forward(self, second_last_BCHW: Tensor, last_BCHW: Tensor, *weights: Tensor) -> Tensor:
        """The computed nodes, side by side."""
        if recomputes():
            return recomputed(self, second_last_BCHW, last_BCHW, *weights)
        senders = (
            partial(_send, sender, [picked(weight, rows, 0) for weight in weights])
            for sender, rows in zip(self.senders, self.rows, strict=True)
        )
        nodes = propagate(self.inputs(second_last_BCHW, last_BCHW), senders, self.join)
        return torch.cat(nodes, dim=1)


def _send(sender: nn.Module, weights: list[Tensor], node_BCHW: Tensor) -> list[Terms]:
    sent: list[Terms] = sender(node_BCHW, *weights)
    return sent


EDGES = edges_of(FAMILY)
QUARTER = 4
BUNDLED = 2**16
"""Multiply-adds of one 1x1 convolution on one image up to which bundled edges are faster."""


class PartialMixedOp(nn.Module):
    """PC-DARTS: the first quarter of the channels through the operations, the rest past them.

    The weight of an edge multiplies all that goes over it, so it can join the operations' weights;
    and the shuffle, which is the same for all edges, can wait for their sum.
    """

    def __init__(self, channels: int, edges: int, stride: int, *, bundled: bool) -> None:
        super().__init__()
        self.quarter = channels // QUARTER
        self.stride = stride
        self.sender = MixedOp(FAMILY, self.quarter, edges, stride, bundled=bundled, pool_norms=True)

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor, edge_weights_E: Tensor) -> list[Terms]:
        """What the node sends to each later node: C / 4 mixed channels and 3 C / 4 others."""
        mixed, past = x_BCHW.tensor_split((self.quarter,), dim=1)
        weight_E1 = edge_weights_E[:, None]
        past = past if self.stride == 1 else F.max_pool2d(past, self.stride)
        through: list[Terms] = self.sender(mixed, weights_EO * weight_E1)
        return [(*t, p) for t, p in zip(through, combinations([past], weight_E1), strict=True)]


def shuffled(mixed_BCHW: Tensor, past_BCHW: Tensor) -> Tensor:
    """A node of all its channels (B, C, H, W); each quarter has a share of the mixed ones."""
    return F.channel_shuffle(torch.cat([mixed_BCHW, past_BCHW], dim=1), QUARTER)


def edge_softmax(numbers_E: Tensor) -> Tensor:
    """Softmax over the edges that enter a node, for each node (edge normalization, Xu 2020)."""
    sizes = [sum(target == n for _, target in EDGES) for n in sorted({t for _, t in EDGES})]
    return torch.cat([part.softmax(0) for part in torch.split(numbers_E, sizes)])


def best_two_of_every_node(weights_EO: Tensor) -> Cell:
    """DARTS' rule: for every node the two heaviest edges, each with its heaviest operation.

    The weight of an edge is that of its heaviest operation other than `none`, which is never
    chosen (Liu et al., ICLR 2019, section 2.4). Weights (14, 8) are after the softmax, times the
    weight of the edge where edges have one; a node's two edges are in the order of their source
    nodes.
    """
    candidates = [o for o, name in enumerate(RULES.operations) if name != "none"]
    heaviest = weights_EO.detach()[:, candidates].max(dim=1)
    weight = heaviest.values.tolist()
    names = [RULES.operations[candidates[int(i)]] for i in heaviest.indices]
    nodes, start = [], 0
    for number in range(RULES.inputs, RULES.inputs + RULES.nodes):
        two = sorted(range(number), key=lambda source: -weight[start + source])[:2]
        nodes.append(tuple(Edge(names[start + source], source) for source in sorted(two)))
        start += number
    return Cell(tuple(nodes), RULES.concat)


class DARTSSupernet(Supernet):
    """The supernet of DARTS; its architecture is {"normal": (14, 8), "reduce": (14, 8)}."""

    family = FAMILY
    architecture_shapes: Mapping[str, tuple[int, ...]] = {
        name: (len(EDGES), len(RULES.operations)) for name in RULES.cells
    }

    mixed_share = 1
    """One in so many channels goes through the operations."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        channels: int,
        cells: int,
        form: Form = "small",
    ) -> None:
        super().__init__()
        # deeper cells have twice the channels at half the size: the work stays the same
        side = image_size >> STEMS[form].halvings
        work = (channels // self.mixed_share * side) ** 2
        self.network = DARTSNetwork(
            partial(self.make_cell, bundled=work <= BUNDLED),
            STEMS[form](in_channels, channels),
            num_classes=num_classes,
            channels=channels,
            cells=cells,
        )

    def forward(self, x_BCHW: Tensor, architecture: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        architecture = self.checked(architecture, x_BCHW)
        weights = (self.weights(name, architecture) for name in RULES.cells)
        logits_BK: Tensor = self.network(x_BCHW, *weights)
        return logits_BK

    def make_cell(self, shape: CellShape, *, bundled: bool) -> nn.Module:
        """The mixed cell that stands at a place."""
        return MixedCell(shape, partial(MixedOp, FAMILY, bundled=bundled, pool_norms=True))

    def weights(self, cell: str, architecture: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The weights that a cell mixes with: of each edge's operations (14, 8), and of edges."""
        return (architecture[cell].softmax(dim=-1),)

    def genotype(self, architecture: Mapping[str, Tensor]) -> Genotype:
        """The cells of the two heaviest edges of every node, each with its heaviest operation."""
        architecture = self.checked(architecture)
        cells: dict[str, Cell] = {}
        for name in RULES.cells:
            weights_EO, *edge_weights = self.weights(name, architecture)
            for edge_weights_E in edge_weights:
                weights_EO = weights_EO * edge_weights_E[:, None]
            cells[name] = best_two_of_every_node(weights_EO)
        return Genotype(FAMILY, cells)


class PCDARTSSupernet(DARTSSupernet):
    """The supernet of PC-DARTS; "normal_edges" and "reduce_edges" (14,) join DARTS' architecture.

    Channels must be divisible by 8.
    """

    architecture_shapes: Mapping[str, tuple[int, ...]] = {
        **DARTSSupernet.architecture_shapes,
        **{f"{name}_edges": (len(EDGES),) for name in RULES.cells},
    }

    mixed_share = QUARTER

    def make_cell(self, shape: CellShape, *, bundled: bool) -> nn.Module:
        """The mixed cell that stands at a place."""
        return MixedCell(shape, partial(PartialMixedOp, bundled=bundled), shuffled)

    def weights(self, cell: str, architecture: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Weights of each edge's operations (14, 8), and of the edges (14,)."""
        edge_weights_E = edge_softmax(architecture[f"{cell}_edges"])
        return (*super().weights(cell, architecture), edge_weights_E)


# The network of a genotype.


class DARTSCell(nn.Module):
    """A discrete cell of DARTS.

    Shapes:
        input: the outputs of the two last cells; output (B, 4 C, H, W), at half the resolution if
        the cell reduces.
    """

    def __init__(self, cell: Cell, shape: CellShape) -> None:
        super().__init__()
        self.inputs = CellInputs(shape, affine=True)
        self.edges = Edges(cell, shape.channels, reduced=2 if shape.reduces else 0)
        self.concat = cell.concat

    def forward(self, second_last_BCHW: Tensor, last_BCHW: Tensor) -> Tensor:
        """The nodes of the output, side by side."""
        nodes: list[Tensor] = self.edges(self.inputs(second_last_BCHW, last_BCHW))
        return torch.cat([nodes[number] for number in self.concat], dim=1)


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
) -> DARTSNetwork:
    """The network of a genotype; InputError if images are too small for the auxiliary head."""
    halvings = DARTS.halvings(cells, form)
    stride = 3 if form == "small" else 2
    features = image_size // 2**halvings
    if auxiliary and features < 5 + stride:
        raise InputError(
            f"the auxiliary head needs features of {5 + stride} pixels, but images of {image_size} "
            f"leave {features}; pass an image_size of at least {2**halvings * (5 + stride)}, "
            "or no auxiliary head"
        )

    def make_cell(shape: CellShape) -> nn.Module:
        return DARTSCell(genotype.cells["reduce" if shape.reduces else "normal"], shape)

    def make_auxiliary(inputs: int) -> nn.Module:
        return AuxiliaryHead(inputs, num_classes, stride=stride, second_norm=form == "small")

    return DARTSNetwork(
        make_cell,
        STEMS[form](in_channels, channels),
        num_classes=num_classes,
        channels=channels,
        cells=cells,
        auxiliary=make_auxiliary if auxiliary else None,
    )
