"""Mixed operations: all candidates of a cell's edges, weighted by the architecture.

Shape suffixes: B batch, C channels, H and W space, E edges, O operations.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from selfexplain.spaces.genotype import FAMILIES
from selfexplain.spaces.operations import PREPARATIONS, Weighted, operation

# How the nodes of a mixed cell are computed: every node sends to all later ones at once.
#
# What a node sends is a tuple of tensors (a partially connected cell sends two), and what arrives
# at a node is summed tensor by tensor.
#
# Shape suffixes: B batch, C channels, H and W space, E edges, S shared results.


Parts = tuple[Tensor, ...]


def edges_of(family: str) -> list[tuple[int, int]]:
    """All edges (source, target) of a cell, in the order of an architecture's rows.

    The order is that of the published searches: target by target, and for each the sources from 0.
    """
    rules = FAMILIES[family]
    targets = range(rules.inputs, rules.inputs + rules.nodes)
    return [(source, target) for target in targets for source in range(target)]


def rows_by_source(family: str) -> list[list[int]]:
    """For every node that sends, the rows of its edges, by target.

    Example:
        >>> rows_by_source("nasbench201")
        [[0, 1, 3], [2, 4], [5]]
    """
    edges = edges_of(family)
    sources = range(max(target for _, target in edges))
    return [[i for i, edge in enumerate(edges) if edge[0] == source] for source in sources]


def propagate(
    inputs: Sequence[Tensor],
    senders: Iterable[Callable[[Tensor], Sequence[Parts]]],
    join: Callable[..., Tensor],
) -> list[Tensor]:
    """The computed nodes of a cell.

    Args:
        inputs: the cell's input nodes.
        senders: for each node but the last, what it sends to every later computed node.
        join: makes a node of the sums of the parts that arrived.

    Returns:
        The computed nodes, in order.

    Example:
        >>> one = lambda node: [(node,), (2 * node,)]
        >>> two = lambda node: [(node,)]
        >>> propagate([torch.ones(1)], [one, two], as_it_is)
        [tensor([1.]), tensor([3.])]
    """
    nodes = list(inputs)
    waiting: list[list[Parts]] = []
    for number, send in enumerate(senders):
        sent = send(nodes[number])
        waiting = waiting or [[] for _ in sent]
        for arrived, parts in zip(waiting, sent, strict=True):
            arrived.append(parts)
        if number + 1 >= len(inputs):  # nothing earlier is left to send to the next node
            nodes.append(join(*map(total, zip(*waiting.pop(0), strict=True))))
    return nodes[len(inputs) :]


def as_it_is(arrived: Tensor) -> Tensor:
    """The node, where what arrived is one tensor and needs nothing more.

    Example:
        >>> as_it_is(torch.ones(1))
        tensor([1.])
    """
    return arrived


def total(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of one or more tensors.

    Example:
        >>> total([torch.ones(1), torch.ones(1)])
        tensor([2.])
    """
    return reduce(add, tensors)


def combinations(results: Sequence[Tensor], weights_ES: Tensor) -> list[Tensor]:
    """For each edge the weighted sum of the results that all edges share.

    One matrix product for all edges: its gradient towards the weights needs no tensor of the size
    of the images for each edge and result, as products one by one do.

    Args:
        results: S tensors (B, C, H, W).
        weights_ES: weights (E, S).

    Returns:
        E tensors (B, C, H, W), in the memory format of the first result.

    Example:
        >>> ones = torch.ones(1, 1, 1, 2)
        >>> combinations([ones, 10 * ones], torch.tensor([[1.0, 2.0]]))
        [tensor([[[[21., 21.]]]])]
    """
    last = results[0].stride(1) == 1  # channels last: then they are stacked as they lie in memory
    stacked = torch.stack([r.permute(0, 2, 3, 1) if last else r for r in results])
    combined = (weights_ES @ stacked.flatten(1)).unbind()
    in_shape = [c.reshape(stacked.shape[1:]) for c in combined]
    return [c.permute(0, 3, 1, 2) if last else c for c in in_shape]


class MixedOp(nn.Module):
    """What a node sends to all later ones, each edge the weighted sum of its operations.

    What has no weights of its own is computed once for all edges: the ReLU, the poolings and, in a
    supernet of DARTS, the BatchNorms behind the poolings. These have no scale and shift, and the
    running statistics of one for each edge would be equal, as all would see the same features.

    What has weights is computed edge by edge, or for all edges bundled in convolutions of E times
    the channels and as many groups. BatchNorms go channel by channel and see no difference.

    Args:
        family: key of `FAMILIES`; its operations are mixed.
        channels: channels C of the node.
        edges: number E of later nodes.
        stride: of the edges; edges that leave the same node have the same.
        bundled: compute the edges together: faster for few channels and small images, where the
            number of calls is what costs.
        pool_norms: put BatchNorms behind the poolings.

    Shapes:
        input (B, C, H, W) and weights (E, O); output E tensors (B, C, H / stride, W / stride).
    """

    def __init__(
        self,
        family: str,
        channels: int,
        edges: int,
        stride: int = 1,
        *,
        bundled: bool,
        pool_norms: bool = False,
    ) -> None:
        super().__init__()
        self.names = FAMILIES[family].operations
        self.channels = channels
        self.stride = stride
        self.bundle = edges if bundled else 1
        computed = [name for name in self.names if name != "none"]
        self.shared = [name for name in computed if operation(name, stride).layers is None]
        self.pool_norms = nn.ModuleDict(
            {
                name: nn.BatchNorm2d(channels, affine=False)
                for name in self.shared
                if pool_norms and "pool" in name
            }
        )
        self.bundles = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: Weighted(name, channels, stride, affine=False, edges=self.bundle)
                    for name in computed
                    if name not in self.shared
                }
            )
            for _ in range(edges // self.bundle)
        )

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> list[Parts]:
        """What each later node receives."""
        columns = [self.names.index(name) for name in self.shared]
        results = [self._shared_result(name, x_BCHW) for name in self.shared]
        sent = combinations(results, weights_EO[:, columns])
        active = PREPARATIONS["relu"](x_BCHW, self.stride)
        scales_OEC = weights_EO.T[:, :, None].repeat(1, 1, self.channels)
        worked: list[Tensor] = []
        for bundle, scales in zip(
            self.bundles, torch.split(scales_OEC, self.bundle, dim=1), strict=True
        ):
            assert isinstance(bundle, nn.ModuleDict)
            scale = dict(zip(self.names, scales.flatten(1).unbind(), strict=True))
            mixed = total([module(active, scale[name]) for name, module in bundle.items()])
            worked.extend(mixed.chunk(self.bundle, dim=1))
        return [(a + b,) for a, b in zip(sent, worked, strict=True)]

    def _shared_result(self, name: str, x_BCHW: Tensor) -> Tensor:
        prepared = PREPARATIONS[operation(name, self.stride).preparation](x_BCHW, self.stride)
        if name not in self.pool_norms:
            return prepared
        normalised: Tensor = self.pool_norms[name](prepared)
        return normalised
