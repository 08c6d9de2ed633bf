"""What a search shows: cells without overlaps whatever the genotype, weights as they were."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

from selfexplain.errors import InputError
from selfexplain.report import architecture_figure, cell_svg, save_figure
from selfexplain.report.cell_drawing import Box, CellLayout, cell_layout
from selfexplain.report.style import STYLES
from selfexplain.spaces import FAMILIES, Cell, Edge, Genotype
from selfexplain.spaces.space import SPACES

SVG = "{http://www.w3.org/2000/svg}"
EDGES = {"darts": 14, "nasbench201": 6, "tiny201": 3}


def random_genotype(family: str, draw: random.Random) -> Genotype:
    rules, cells = FAMILIES[family], {}
    for name in rules.cells:
        nodes = []
        for number in range(rules.inputs, rules.inputs + rules.nodes):
            sources = draw.sample(range(number), rules.edges_per_node or number)
            nodes.append(tuple(Edge(draw.choice(rules.operations), s) for s in sources))
        cells[name] = Cell(tuple(nodes), rules.concat)
    return Genotype(family, cells)


def even_weights(family: str) -> dict[str, torch.Tensor]:
    rules = FAMILIES[family]
    shape = (EDGES[family], len(rules.operations))
    return {name: torch.full(shape, 1 / shape[1]) for name in rules.cells}


def overlap(a: Box, b: Box) -> bool:
    return (
        a.x < b.x + b.width
        and b.x < a.x + a.width
        and a.y < b.y + b.height
        and b.y < a.y + a.height
    )


def runs(corners: tuple[tuple[float, float], ...], width: float) -> Iterator[Box]:
    for (x0, y0), (x1, y1) in pairwise(corners):
        assert x0 == x1 or y0 == y1
        left, top = min(x0, x1) - width / 2, min(y0, y1) - width / 2
        yield Box(left, top, abs(x1 - x0) + width, abs(y1 - y0) + width)


def inside(box: Box, layout: CellLayout) -> bool:
    return (
        box.x >= 0
        and box.y >= 0
        and box.x + box.width <= layout.size[0]
        and box.y + box.height <= layout.size[1]
    )


def check(layout: CellLayout) -> None:
    labels = [wire.label for wire in layout.wires]
    nodes = [*layout.nodes.values(), *([layout.output] if layout.output else [])]
    assert all(inside(box, layout) for box in [*labels, *nodes])
    assert not any(overlap(a, b) for a, b in combinations([*labels, *nodes], 2))
    lines = [(wire, wire.corners, STYLES[wire.operation].width) for wire in layout.wires]
    lines += [(None, corners, 1.5) for corners in layout.bus]
    for wire, corners, width in lines:
        others = [other.label for other in layout.wires if other is not wire]
        for run in runs(corners, width):
            assert inside(run, layout)
            assert not any(overlap(run, label) for label in others)


@pytest.mark.parametrize("spare", [0, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_lies_on_a_label(family: str, spare: int) -> None:
    draw = random.Random(0)
    for _ in range(200):
        for cell in random_genotype(family, draw).cells.values():
            check(cell_layout(cell, FAMILIES[family].inputs, spare))


@pytest.mark.parametrize("family", FAMILIES)
def test_edges_start_and_end_at_their_nodes(family: str) -> None:
    draw = random.Random(1)
    for _ in range(50):
        for cell in random_genotype(family, draw).cells.values():
            layout = cell_layout(cell, FAMILIES[family].inputs)
            ends = [end for wire in layout.wires for end in (wire.corners[0], wire.corners[-1])]
            assert len(set(ends)) == len(ends)
            for wire in layout.wires:
                for node, (x, y) in (
                    (wire.source, wire.corners[0]),
                    (wire.target, wire.corners[-1]),
                ):
                    box = layout.nodes[node]
                    across, down = round(x - box.x, 6), round(y - box.y, 6)
                    assert across in (0, box.width) or down in (0, box.height)
                    assert 0 <= across <= box.width
                    assert 0 <= down <= box.height


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_drawing_names_every_edge(family: str, weighted: bool) -> None:
    genotype = random_genotype(family, random.Random(2))
    root = ET.fromstring(cell_svg(genotype, weights=even_weights(family) if weighted else None))
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    ending = f" {1 / len(FAMILIES[family].operations):.2f}" if weighted else ""
    groups = [part for part in root if part.tag == f"{SVG}g"]
    for (name, cell), group in zip(genotype.cells.items(), groups, strict=True):
        edges = [edge for node in cell.nodes for edge in node]
        labels = [text.text for text in group.iter(f"{SVG}text") if text.get("class") == "label"]
        assert sorted(labels) == sorted(edge.operation + ending for edge in edges)
        for number, node in enumerate(cell.nodes, start=FAMILIES[family].inputs):
            words = " plus ".join(f"{edge.operation} of {edge.source}" for edge in node)
            assert f"node {number} is {words}" in description.text
        assert name in title.text


def test_names_of_own_operations_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    own = "a < b & 'c'"
    space = SPACES["nasbench201"]
    rules = replace(space.rules, operations=("none", own))
    monkeypatch.setitem(SPACES, "nasbench201", replace(space, rules=rules))
    third = (Edge("none", 0), Edge("none", 1), Edge(own, 2))
    nodes = ((Edge("none", 0),), (Edge("none", 0), Edge("none", 1)), third)
    text = cell_svg(Genotype("nasbench201", {"cell": Cell(nodes, (3,))}))
    labels = [each.text for each in ET.fromstring(text).iter(f"{SVG}text")]
    assert own in labels


def test_drawing_needs_nothing_from_outside() -> None:
    text = cell_svg(random_genotype("darts", random.Random(3)))
    for word in ("<script", "@import", "url(", "href", "@font-face"):
        assert word not in text
    assert "prefers-color-scheme:dark" in text
    assert text.count("http") == 1  # the name of the format


def test_weight_of_an_edge_is_read_from_its_row_and_column() -> None:
    genotype = random_genotype("darts", random.Random(4))
    weights = {name: torch.arange(14 * 8).reshape(14, 8) / 200 for name in ("normal", "reduce")}
    text = cell_svg(genotype, weights=weights)
    operations, pairs = (
        FAMILIES["darts"].operations,
        [(s, t) for t in range(2, 6) for s in range(t)],
    )
    for cell in genotype.cells.values():
        for node, edges in enumerate(cell.nodes, start=2):
            for operation, source in edges:
                value = (8 * pairs.index((source, node)) + operations.index(operation)) / 200
                words = f"{operation} from node {source} to node {node}, weight {value:.3f}"
                assert f"<title>{words}</title>" in text


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"normal": np.ones((14, 8)) / 8}, "no 'reduce'"),
        ({"normal": np.ones((14, 5)), "reduce": np.ones((14, 8))}, r"pass \(14, 8\)"),
    ],
)
def test_weights_of_another_family_are_refused(weights: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cell_svg(random_genotype("darts", random.Random(5)), weights=weights)


def history(family: str, epochs: int) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    rules = FAMILIES[family]
    shape = (EDGES[family], len(rules.operations))
    return [{c: torch.randn(shape).softmax(1) for c in rules.cells} for _ in range(epochs)]


@pytest.mark.parametrize(("family", "epochs"), [("nasbench201", 3), ("darts", 1)])
def test_figure_shows_each_weight_and_the_entropy(family: str, epochs: int, tmp_path: Path) -> None:
    rules, weights = FAMILIES[family], history(family, epochs)
    figure = architecture_figure(weights, rules.operations)
    panels = [axes for axes in figure.axes if "→" in axes.get_title()]
    assert len(panels) == EDGES[family] * len(rules.cells)
    places = [(cell, edge) for cell in rules.cells for edge in range(EDGES[family])]
    for axes, (cell, edge) in zip(panels, places, strict=True):
        assert [line.get_label() for line in axes.lines] == list(rules.operations)
        for o, line in enumerate(axes.lines):
            expected = [float(epoch[cell][edge, o]) for epoch in weights]
            assert list(line.get_ydata()) == pytest.approx(expected)
            assert list(line.get_xdata()) == list(range(1, epochs + 1))
    entropies = figure.axes[-1].lines
    for cell, line in zip(rules.cells, entropies, strict=False):
        mean = [float(torch.distributions.Categorical(e[cell]).entropy().mean()) for e in weights]
        assert list(line.get_ydata()) == pytest.approx(mean, rel=1e-5)
    assert entropies[-1].get_ydata()[0] == pytest.approx(np.log(len(rules.operations)))
    save_figure(figure, tmp_path / "search.png")
    assert (tmp_path / "search.png").stat().st_size > 1000


def test_arrays_and_tensors_with_gradients_do() -> None:
    operations = FAMILIES["nasbench201"].operations
    with_gradient = torch.full((6, 5), 0.2, requires_grad=True)
    architecture_figure([{"cell": with_gradient}, {"cell": np.full((6, 5), 0.2)}], operations)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "history is empty"),
        ([{"cell": np.full((6, 5), 0.2)}, {}], "no cell 'cell'"),
        ([{"cell": np.full((6, 8), 0.125)}], r"pass \(edges, 5\)"),
        ([{"cell": np.full((7, 5), 0.2)}], "no search space has cells with 7 edges"),
        ([{"cell": np.full((6, 5), 0.2)}, {"cell": np.full((14, 5), 0.2)}], "of one search"),
        ([{"cell": np.zeros((6, 5))}], "after softmax"),
    ],
)
def test_history_of_no_search_is_refused(weights: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        architecture_figure(weights, FAMILIES["nasbench201"].operations)
