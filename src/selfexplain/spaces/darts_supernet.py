"""The supernets of DARTS (Liu et al., ICLR 2019) and PC-DARTS (Xu et al., ICLR 2020).

PC-DARTS sends a quarter of a node's channels through the mixed operation; the others go past it
(max-pooled where the edge reduces), a channel shuffle follows, and edges have weights of their own.

Shape suffixes: B batch, C channels, H and W space, K classes, E edges, O operations.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.spaces.darts_ends import SmallStem
from selfexplain.spaces.darts_mixed_cell import FAMILY, MixedCell
from selfexplain.spaces.darts_skeleton import CellShape, DARTSNetwork
from selfexplain.spaces.derive import best_two_of_every_node
from selfexplain.spaces.genotype import FAMILIES, Cell, Genotype
from selfexplain.spaces.mixing import Parts, combinations, edges_of
from selfexplain.spaces.sender import Sender
from selfexplain.spaces.supernet import Supernet

CELLS = FAMILIES[FAMILY].cells
OPERATIONS = FAMILIES[FAMILY].operations
EDGES = edges_of(FAMILY)
QUARTER = 4
BUNDLED = 2**16
"""Multiply-adds of one 1x1 convolution on one image up to which bundled edges are faster."""


class QuarterSender(nn.Module):
    """PC-DARTS: the first quarter of the channels through the operations, the rest past them.

    The weight of an edge multiplies all that goes over it, so it can join the operations' weights;
    and the shuffle, which is the same for all edges, can wait for their sum.
    """

    def __init__(self, channels: int, edges: int, stride: int, *, bundled: bool) -> None:
        super().__init__()
        self.quarter = channels // QUARTER
        self.stride = stride
        self.sender = Sender(FAMILY, self.quarter, edges, stride, bundled=bundled, pool_norms=True)

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor, edge_weights_E: Tensor) -> list[Parts]:
        """What the node sends to each later node: C / 4 mixed channels and 3 C / 4 others."""
        mixed, past = x_BCHW.tensor_split((self.quarter,), dim=1)
        weight_E1 = edge_weights_E[:, None]
        past = past if self.stride == 1 else F.max_pool2d(past, self.stride)
        through: list[Parts] = self.sender(mixed, weights_EO * weight_E1)
        return [(*t, p) for t, p in zip(through, combinations([past], weight_E1), strict=True)]


def shuffled(mixed_BCHW: Tensor, past_BCHW: Tensor) -> Tensor:
    """A node of all its channels (B, C, H, W), so that each quarter has a share of the mixed ones.

    Example:
        >>> shuffled(torch.zeros(1, 2, 1, 1), torch.ones(1, 6, 1, 1)).flatten()
        tensor([0., 1., 1., 1., 0., 1., 1., 1.])
    """
    return F.channel_shuffle(torch.cat([mixed_BCHW, past_BCHW], dim=1), QUARTER)


def edge_softmax(numbers_E: Tensor) -> Tensor:
    """Softmax over the edges that enter a node, for each node (Xu et al. 2020, edge normalization).

    Example:
        >>> edge_softmax(torch.zeros(14))[:3]
        tensor([0.5000, 0.5000, 0.3333])
    """
    sizes = [sum(target == n for _, target in EDGES) for n in sorted({t for _, t in EDGES})]
    return torch.cat([part.softmax(0) for part in torch.split(numbers_E, sizes)])


class DARTSSupernet(Supernet):
    """The supernet of DARTS; its architecture is {"normal": (14, 8), "reduce": (14, 8)}.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        image_size: height and width of the images; it decides how the edges are computed.
        channels: channels of the first cells.
        cells: number of cells.
    """

    family = FAMILY
    architecture_shapes: Mapping[str, tuple[int, ...]] = {
        name: (len(EDGES), len(OPERATIONS)) for name in CELLS
    }

    mixed_share = 1
    """One in so many channels goes through the operations."""

    def __init__(
        self, *, num_classes: int, in_channels: int, image_size: int, channels: int, cells: int
    ) -> None:
        super().__init__()
        # deeper cells have twice the channels at half the size: the work stays the same
        work = (channels // self.mixed_share * image_size) ** 2
        self.network = DARTSNetwork(
            partial(self.make_cell, bundled=work <= BUNDLED),
            SmallStem(in_channels, channels),
            num_classes=num_classes,
            channels=channels,
            cells=cells,
        )

    def forward(self, x_BCHW: Tensor, architecture: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        architecture = self.checked(architecture, x_BCHW)
        weights = (self.weights(name, architecture) for name in CELLS)
        logits_BK: Tensor = self.network(x_BCHW, *weights)
        return logits_BK

    def make_cell(self, shape: CellShape, *, bundled: bool) -> nn.Module:
        """The mixed cell that stands at a place."""
        return MixedCell(shape, partial(Sender, FAMILY, bundled=bundled, pool_norms=True))

    def weights(self, cell: str, architecture: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The weights that a cell mixes with: of each edge's operations (14, 8), and of edges."""
        return (architecture[cell].softmax(dim=-1),)

    def genotype(self, architecture: Mapping[str, Tensor]) -> Genotype:
        """The cells of the two heaviest edges of every node, each with its heaviest operation."""
        architecture = self.checked(architecture)
        cells: dict[str, Cell] = {}
        for name in CELLS:
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
        **{f"{name}_edges": (len(EDGES),) for name in CELLS},
    }

    mixed_share = QUARTER

    def make_cell(self, shape: CellShape, *, bundled: bool) -> nn.Module:
        """The mixed cell that stands at a place."""
        return MixedCell(shape, partial(QuarterSender, bundled=bundled), shuffled)

    def weights(self, cell: str, architecture: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Weights of each edge's operations (14, 8), and of the edges (14,)."""
        edge_weights_E = edge_softmax(architecture[f"{cell}_edges"])
        return (*super().weights(cell, architecture), edge_weights_E)
