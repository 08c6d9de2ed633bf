"""How the nodes of a mixed cell are computed: every node sends to all later ones at once.

What a node sends is a tuple of tensors (a partially connected cell sends two), and what arrives at
a node is summed tensor by tensor.

Shape suffixes: B batch, C channels, H and W space, E edges, S shared results.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from selfexplain.spaces.genotype import FAMILIES

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
