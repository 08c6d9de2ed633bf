"""The supernet of NAS-Bench-201 (Dong and Yang, ICLR 2020).

Shape suffixes: B batch, C channels, H and W space, K classes, E edges, O operations.
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from selfexplain.spaces.derive import best_of_every_edge
from selfexplain.spaces.genotype import FAMILIES, Genotype
from selfexplain.spaces.mixing import as_it_is, edges_of, propagate, rows_by_source
from selfexplain.spaces.nasbench201_skeleton import NASBench201Network
from selfexplain.spaces.sender import Sender
from selfexplain.spaces.supernet import Supernet

FAMILY = "nasbench201"
OPERATIONS = FAMILIES[FAMILY].operations


class MixedCell(nn.Module):
    """A cell in which every edge is the weighted sum of all operations.

    Shapes:
        input (B, C, H, W) and weights (6, 5), a row for each of the edges 1<-0, 2<-0, 2<-1, 3<-0,
        3<-1, 3<-2; output (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows = rows_by_source(FAMILY)
        # all edges read the same features, so one dense convolution with more outputs serves all
        self.senders = nn.ModuleList(
            Sender(FAMILY, channels, len(rows), bundled=True) for rows in self.rows
        )

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> Tensor:
        """The last node."""
        senders = (
            partial(sender, weights_EO=weights_EO[rows])
            for sender, rows in zip(self.senders, self.rows, strict=True)
        )
        return propagate([x_BCHW], senders, as_it_is)[-1]


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
