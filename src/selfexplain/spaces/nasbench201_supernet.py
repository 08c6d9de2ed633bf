"""The supernet of NAS-Bench-201 (Dong and Yang, ICLR 2020).

Shape suffixes: B batch, C channels, H and W space, K classes, E edges, O operations.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from selfexplain.spaces.derive import best_of_every_edge
from selfexplain.spaces.genotype import FAMILIES, Genotype
from selfexplain.spaces.mixing import Parts, combinations, edges_of, propagate, rows_by_source
from selfexplain.spaces.nasbench201_skeleton import NASBench201Network
from selfexplain.spaces.operations import PREPARATIONS, Weighted
from selfexplain.spaces.supernet import Supernet

FAMILY = "nasbench201"
OPERATIONS = FAMILIES[FAMILY].operations
CONVOLUTIONS = ("nor_conv_1x1", "nor_conv_3x3")


class Sender(nn.Module):
    """All operations on all edges that leave one node.

    The ReLU and the average pooling have no weights, so one is enough for all edges. The
    convolutions of the edges read the same features, so they are one convolution with E times the
    output channels, the weights of the edges side by side; a BatchNorm goes channel by channel and
    sees no difference.

    Args:
        channels: channels C of the node.
        edges: number E of later nodes.
    """

    def __init__(self, channels: int, edges: int) -> None:
        super().__init__()
        self.channels = channels
        self.edges = edges
        self.convolutions = nn.ModuleDict(
            {name: Weighted(name, channels, affine=False, edges=edges) for name in CONVOLUTIONS}
        )

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> list[Parts]:
        """What the node sends to each later node: one tensor (B, C, H, W)."""
        weight_E = dict(zip(OPERATIONS, weights_EO.unbind(1), strict=True))
        active = PREPARATIONS["relu"](x_BCHW, 1)
        first, second = (
            module(active, weight_E[name].repeat_interleave(self.channels))
            for name, module in self.convolutions.items()
        )
        convolved = (first + second).chunk(self.edges, dim=1)
        shared = combinations(
            [x_BCHW, PREPARATIONS["avg_pool"](x_BCHW, 1)],
            torch.stack([weight_E["skip_connect"], weight_E["avg_pool_3x3"]], dim=1),
        )
        return [(a + b,) for a, b in zip(convolved, shared, strict=True)]


class MixedCell(nn.Module):
    """A cell in which every edge is the weighted sum of all operations.

    Shapes:
        input (B, C, H, W) and weights (6, 5), a row for each of the edges 1<-0, 2<-0, 2<-1, 3<-0,
        3<-1, 3<-2; output (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows = rows_by_source(FAMILY)
        self.senders = nn.ModuleList(Sender(channels, len(rows)) for rows in self.rows)

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> Tensor:
        """The last node."""
        senders = (
            partial(sender, weights_EO=weights_EO[rows])
            for sender, rows in zip(self.senders, self.rows, strict=True)
        )
        return propagate([x_BCHW], senders, join=lambda part: part)[-1]


class NASBench201Supernet(Supernet):
    """The supernet of NAS-Bench-201; its architecture is {"cell": (6, 5)}.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the images.
        channels: channels of the first stage.
        cells: cells N of each of the three stages.
    """

    family = FAMILY
    architecture_shapes: Mapping[str, tuple[int, ...]] = {
        "cell": (len(edges_of(FAMILY)), len(OPERATIONS))
    }

    def __init__(self, *, num_classes: int, in_channels: int, channels: int, cells: int) -> None:
        super().__init__()
        self.network = NASBench201Network(
            MixedCell,
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
        return Genotype(FAMILY, {"cell": best_of_every_edge(architecture["cell"])})
