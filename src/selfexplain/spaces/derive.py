"""Discretisation: from the numbers of an architecture to one operation an edge.

Shape suffixes: E edges, O operations.
"""

from torch import Tensor

from selfexplain.spaces.genotype import FAMILIES, Cell, Edge


def best_of_every_edge(weights_EO: Tensor) -> Cell:
    """NAS-Bench-201's rule: on every edge the heaviest of all five operations.

    Args:
        weights_EO: numbers (6, 5), raw or after the softmax.

    Returns:
        A cell of the family nasbench201.
    """
    rules = FAMILIES["nasbench201"]
    best = weights_EO.detach().argmax(dim=1).tolist()
    nodes = []
    for number in range(rules.inputs, rules.inputs + rules.nodes):
        chosen, best = best[:number], best[number:]
        nodes.append(tuple(Edge(rules.operations[o], source) for source, o in enumerate(chosen)))
    return Cell(tuple(nodes), rules.concat)


def best_two_of_every_node(weights_EO: Tensor) -> Cell:
    """DARTS' rule: for every node the two heaviest edges, each with its heaviest operation.

    The weight of an edge is that of its heaviest operation other than `none`, which is never
    chosen (Liu et al., ICLR 2019, section 2.4).

    Args:
        weights_EO: weights (14, 8) after the softmax, times the weight of the edge where edges have
            one.

    Returns:
        A cell of the family darts; a node's two edges are in the order of their source nodes.
    """
    rules = FAMILIES["darts"]
    candidates = [o for o, name in enumerate(rules.operations) if name != "none"]
    heaviest = weights_EO.detach()[:, candidates].max(dim=1)
    weight = heaviest.values.tolist()
    names = [rules.operations[candidates[int(i)]] for i in heaviest.indices]
    nodes, start = [], 0
    for number in range(rules.inputs, rules.inputs + rules.nodes):
        two = sorted(range(number), key=lambda source: -weight[start + source])[:2]
        nodes.append(tuple(Edge(names[start + source], source) for source in sorted(two)))
        start += number
    return Cell(tuple(nodes), rules.concat)
