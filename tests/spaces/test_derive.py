"""Discretisation: the published rules, against a search over all choices."""

import itertools

import pytest
import torch
from torch import Tensor

from selfexplain.spaces import FAMILIES, build_supernet
from selfexplain.spaces.darts import edge_softmax

OPERATIONS = FAMILIES["darts"].operations


def supernet(space: str):  # type: ignore[no-untyped-def]
    return build_supernet(space, num_classes=2, in_channels=1, image_size=8, channels=8, cells=3)


def best_by_search(weights: Tensor) -> list[set[tuple[str, int]]]:
    """Every pair of sources, each with every operation but none: the heaviest sum wins."""
    nodes, start = [], 0
    for number in range(2, 6):
        choices = itertools.product(
            itertools.combinations(range(number), 2), itertools.product(range(1, 8), repeat=2)
        )
        (i, j), (o, p) = max(
            choices,
            key=lambda c: float(
                weights[start + c[0][0], c[1][0]] + weights[start + c[0][1], c[1][1]]
            ),
        )
        nodes.append({(OPERATIONS[o], i), (OPERATIONS[p], j)})
        start += number
    return nodes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("space", ["darts", "pcdarts"])
def test_two_heaviest_edges_with_their_heaviest_operation(space: str, seed: int) -> None:
    net = supernet(space)
    start = net.new_architecture(torch.Generator().manual_seed(seed))
    architecture = {name: 2000 * numbers for name, numbers in start.items()}
    genotype = net.genotype(architecture)
    for name in ("normal", "reduce"):
        weights = architecture[name].softmax(-1)
        if space == "pcdarts":
            edges = architecture[f"{name}_edges"]
            sizes = (2, 3, 4, 5)
            softened = [part.softmax(0) for part in edges.split(sizes)]
            weights = weights * torch.cat(softened)[:, None]
            assert torch.equal(edge_softmax(edges), torch.cat(softened))
        found = [{tuple(edge) for edge in node} for node in genotype.cells[name].nodes]
        assert found == best_by_search(weights)


def test_none_is_never_chosen_but_weakens_its_edge() -> None:
    net = supernet("darts")
    architecture = {name: torch.zeros(shape) for name, shape in net.architecture_shapes.items()}
    # node 3 has the edges 2, 3, 4; the first is mostly none, though its best operation scores high
    architecture["normal"][2, 0] = 9.0
    architecture["normal"][2, 4] = 2.0
    architecture["normal"][3, 5] = 1.0
    architecture["normal"][4, 6] = 1.0
    node = net.genotype(architecture).cells["normal"].nodes[1]
    assert [tuple(edge) for edge in node] == [("sep_conv_5x5", 1), ("dil_conv_3x3", 2)]


def test_pcdarts_weight_of_an_edge_decides() -> None:
    net = supernet("pcdarts")
    architecture = {name: torch.zeros(shape) for name, shape in net.architecture_shapes.items()}
    architecture["reduce"][:, 4] = 1.0
    architecture["reduce_edges"][[10, 13]] = 3.0  # of node 5's edges 9 to 13
    node = net.genotype(architecture).cells["reduce"].nodes[3]
    assert [tuple(edge) for edge in node] == [("sep_conv_3x3", 1), ("sep_conv_3x3", 4)]
