"""The mixed cell of DARTS (Liu, Simonyan, Yang, ICLR 2019, section 2.2).

Shape suffixes: B batch, C channels, H and W space, E edges, O operations.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from selfexplain.spaces.darts_skeleton import CellInputs, CellShape
from selfexplain.spaces.genotype import FAMILIES
from selfexplain.spaces.mixing import Parts, combinations, propagate, rows_by_source
from selfexplain.spaces.operations import PREPARATIONS, Weighted, operation

FAMILY = "darts"
INPUTS = FAMILIES[FAMILY].inputs
OPERATIONS = FAMILIES[FAMILY].operations
COMPUTED = tuple(name for name in OPERATIONS if name != "none")
POOLS = ("max_pool_3x3", "avg_pool_3x3")


class Sender(nn.Module):
    """All operations on all edges that leave one node.

    What has no weights is computed once for all edges: the ReLU, the poolings, and also the
    BatchNorms behind the poolings. These have no scale and shift in a supernet, and the running
    statistics of one for each edge would be equal: all see the same features from the same start.

    Args:
        channels: channels C of the node.
        edges: number E of later nodes.
        stride: of the edges; edges that leave the same node have the same.
    """

    def __init__(self, channels: int, edges: int, stride: int) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        self.shared = [name for name in COMPUTED if operation(name, stride).layers is None]
        self.pool_norms = nn.ModuleDict(
            {name: nn.BatchNorm2d(channels, affine=False) for name in POOLS}
        )
        self.edges = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: Weighted(name, channels, stride, affine=False)
                    for name in COMPUTED
                    if name not in self.shared
                }
            )
            for _ in range(edges)
        )

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> list[Parts]:
        """What the node sends to each later node: one tensor (B, C, H / stride, W / stride)."""
        results = [self._shared_result(name, x_BCHW) for name in self.shared]
        columns = [OPERATIONS.index(name) for name in self.shared]
        sent = combinations(results, weights_EO[:, columns])
        active = PREPARATIONS["relu"](x_BCHW, self.stride)
        scales_EOC = weights_EO[:, :, None].repeat(1, 1, self.channels)
        for e, (edge, scales_OC) in enumerate(zip(self.edges, scales_EOC.unbind(), strict=True)):
            assert isinstance(edge, nn.ModuleDict)
            scale_C = dict(zip(OPERATIONS, scales_OC.unbind(), strict=True))
            for name, module in edge.items():
                sent[e] = sent[e] + module(active, scale_C[name])
        return [(tensor,) for tensor in sent]

    def _shared_result(self, name: str, x_BCHW: Tensor) -> Tensor:
        prepared = PREPARATIONS[operation(name, self.stride).preparation](x_BCHW, self.stride)
        if name not in self.pool_norms:
            return prepared
        normalised: Tensor = self.pool_norms[name](prepared)
        return normalised


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
        make_sender: Callable[[int, int, int], nn.Module] = Sender,
        join: Callable[..., Tensor] = lambda arrived_BCHW: arrived_BCHW,
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
