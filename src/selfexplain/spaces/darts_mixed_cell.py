"""The mixed cell of DARTS (Liu, Simonyan, Yang, ICLR 2019, section 2.2).

Shape suffixes: B batch, C channels, H and W space.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from selfexplain.spaces.darts_skeleton import CellInputs, CellShape
from selfexplain.spaces.genotype import FAMILIES
from selfexplain.spaces.mixing import Parts, as_it_is, propagate, rows_by_source

FAMILY = "darts"
INPUTS = FAMILIES[FAMILY].inputs


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
            make_sender(shape.channels, len(rows), 2 if shape.reduces and source < INPUTS else 1)
            for source, rows in enumerate(self.rows)
        )

    def forward(self, second_last_BCHW: Tensor, last_BCHW: Tensor, *weights: Tensor) -> Tensor:
        """The computed nodes, side by side."""
        senders = (
            partial(_send, sender, [weight[rows] for weight in weights])
            for sender, rows in zip(self.senders, self.rows, strict=True)
        )
        nodes = propagate(self.inputs(second_last_BCHW, last_BCHW), senders, self.join)
        return torch.cat(nodes, dim=1)


def _send(sender: nn.Module, weights: list[Tensor], node_BCHW: Tensor) -> list[Parts]:
    sent: list[Parts] = sender(node_BCHW, *weights)
    return sent
