"""The graph of a genotype's cells as an SVG picture that needs nothing but itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, product
from typing import Any, NamedTuple
from zlib import crc32

import torch

from selfexplain.errors import InputError
from selfexplain.report.html import render
from selfexplain.report.style import OTHER, STYLES
from selfexplain.spaces import FAMILIES, Cell, Genotype

# Where the nodes, edges and labels of a drawn cell stand.
#
# Nodes stand in one row, a column each. An edge between neighbours runs straight; any other runs
# in a lane above or below the row, and enters its node from there. Its label stands in the lane,
# in the gap before that node, where nothing runs up or down: so a label touches neither another
# label nor another edge, whatever the cell.


NODE_WIDTH, NODE_HEIGHT, END_WIDTH = 56.0, 40.0, 84.0
LANE, FIRST_LANE, LABEL_HEIGHT, CHARACTER = 28.0, 28.0, 20.0, 6.7
MARGIN, TITLE_HEIGHT, PORT = 20.0, 54.0, 12.0

Point = tuple[float, float]
Corners = tuple[Point, ...]
Ports = dict[tuple[str, int, int], float]
"""(in, source, target), (out, source, target) or (bus, node, node) -> x."""
Lanes = dict[tuple[int, int], int]
"""(source, target) -> lane: 0 straight; -1, -2, ... above the row; 1, 2, ... below it."""


class Box(NamedTuple):
    """A rectangle, from its upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Wire:
    """An edge as drawn: its corners from source to target, and where its label stands."""

    operation: str
    source: int
    target: int
    corners: Corners
    label: Box


@dataclass(frozen=True, slots=True)
class CellLayout:
    """Where all of a cell stands; `bus` are the lines that gather the concatenated output."""

    nodes: dict[int, Box]
    output: Box | None
    wires: tuple[Wire, ...]
    bus: tuple[Corners, ...]
    size: Point


def cell_layout(cell: Cell, inputs: int, spare: int = 0) -> CellLayout:
    """Place the nodes, edges and labels of a cell that has this many inputs.

    Args:
        cell: what to place.
        inputs: how many inputs it has.
        spare: characters that every label needs beside its operation's name.
    """
    lanes = _lanes(cell, inputs)
    drawn = {edge.operation for node in cell.nodes for edge in node}
    gap = (max(map(len, drawn.union(STYLES))) + spare) * CHARACTER + 50
    last = inputs + len(cell.nodes) - 1
    gathered = cell.concat if cell.concat != (last,) else ()
    middle = TITLE_HEIGHT - _lane_y(min(0, *lanes.values()), 0.0)
    nodes = {}
    for number in range(inputs):
        ys = [_lane_y(lane, middle) for (source, _), lane in lanes.items() if source == number]
        nodes[number] = Box(MARGIN, min(ys) - 18, END_WIDTH, max(ys) - min(ys) + 36)
    for column in range(1, len(cell.nodes) + 1):
        x = MARGIN + END_WIDTH + column * gap + (column - 1) * NODE_WIDTH
        nodes[inputs + column - 1] = Box(x, middle - NODE_HEIGHT / 2, NODE_WIDTH, NODE_HEIGHT)
    ports = _ports(nodes, lanes, inputs, gathered)
    wires = []
    for (source, target), lane in lanes.items():
        operation = next(e.operation for e in cell.nodes[target - inputs] if e.source == source)
        width = (len(operation) + spare) * CHARACTER + 12
        y = _lane_y(lane, middle)
        label = Box(nodes[target].x - (gap + width) / 2, y - LABEL_HEIGHT / 2, width, LABEL_HEIGHT)
        corners = _corners(nodes, ports, (source, target), y)
        wires.append(Wire(operation, source, target, corners, label))
    right = nodes[last].x + NODE_WIDTH
    low = _lane_y(max(0, *lanes.values()), middle)
    bottom = max(low + LABEL_HEIGHT / 2, *(box.y + box.height for box in nodes.values()))
    if not gathered:
        return CellLayout(nodes, None, tuple(wires), (), (right + MARGIN, bottom + MARGIN))
    output = Box(right + 40, nodes[last].y, END_WIDTH, NODE_HEIGHT)
    top, bus_y, centre = output.y + NODE_HEIGHT, bottom + 10, output.x + END_WIDTH / 2
    drops = [((ports["bus", n, n], top), (ports["bus", n, n], bus_y)) for n in gathered]
    line = (*drops[0], (centre, bus_y), (centre, top))
    size = (output.x + END_WIDTH + MARGIN, bus_y + MARGIN)
    return CellLayout(nodes, output, tuple(wires), (line, *drops[1:]), size)


def _lane_y(lane: int, middle: float) -> float:
    side = (lane > 0) - (lane < 0)
    return middle + side * (NODE_HEIGHT / 2 + FIRST_LANE + (abs(lane) - 1) * LANE)


def _corners(nodes: dict[int, Box], ports: Ports, edge: tuple[int, int], y: float) -> Corners:
    """From the side of an input, or of a neighbour, or from a port; along y; into a port."""
    source, target = nodes[edge[0]], nodes[edge[1]]
    start: Corners = ((source.x + source.width, y),)
    if ("in", *edge) not in ports:
        return (*start, (target.x, y))
    x = ports["in", *edge]
    if ("out", *edge) in ports:
        port = ports["out", *edge]
        start = ((port, _near_side(source, y)), (port, y))
    return (*start, (x, y), (x, _near_side(target, y)))


def _near_side(box: Box, y: float) -> float:
    return box.y if y < box.y else box.y + box.height


def _column(node: int, inputs: int) -> int:
    """Inputs share column 0."""
    return max(0, node - inputs + 1)


def _lanes(cell: Cell, inputs: int) -> Lanes:
    """The lanes with the fewest crossings, then the fewest lanes."""
    edges = [(e.source, t) for t, node in enumerate(cell.nodes, start=inputs) for e in node]
    sides: dict[tuple[int, int], tuple[int, ...]] = {}
    for source, target in edges:
        near = _column(target, inputs) - _column(source, inputs) == 1
        if inputs > 1 and source < inputs:
            sides[source, target] = (-1,) if source == 0 else (1,)
        else:
            sides[source, target] = (0,) if near else (-1, 1)
    candidates = (
        _first_fit(dict(zip(edges, choice, strict=True)), inputs)
        for choice in product(*(sides[edge] for edge in edges))
    )

    def cost(lanes: Lanes) -> tuple[int, int, int]:
        lengths = [abs(lane) for lane in lanes.values()]
        return _crossings(lanes, inputs), max(lanes.values()) - min(lanes.values()), sum(lengths)

    return min(candidates, key=cost)


def _first_fit(sides: Lanes, inputs: int) -> Lanes:
    """Short edges next to the row, so that longer ones pass around them."""
    span = {(s, t): (_column(s, inputs), _column(t, inputs)) for s, t in sides}
    lanes: Lanes = {}
    for edge in sorted(sides, key=lambda edge: span[edge][1] - span[edge][0]):
        (start, end), side = span[edge], sides[edge]
        taken = {lanes[e] for e in lanes if start < span[e][1] and span[e][0] < end}
        lanes[edge] = next(side * k for k in count(1) if side * k not in taken) if side else 0
    return lanes


def _crossings(lanes: Lanes, inputs: int) -> int:
    """How often an edge on its way up or down meets another in its lane."""
    ends = [(lane, node) for edge, lane in lanes.items() for node in edge if node >= inputs]
    return sum(
        0 < abs(other) < abs(lane)
        and other * lane > 0
        and _column(source, inputs) < _column(node, inputs) < _column(target, inputs)
        for lane, node in ends
        for (source, target), other in lanes.items()
    )


def _ports(nodes: dict[int, Box], lanes: Lanes, inputs: int, gathered: tuple[int, ...]) -> Ports:
    """Where edges meet a node's upper and lower side: no two at one place, and none crossing.

    What arrives stands left of what leaves, and the inner lanes outside.
    """
    ports: Ports = {}
    for node, side in product(range(inputs, len(nodes)), (-1, 1)):
        own = sorted((edge for edge in lanes if lanes[edge] * side > 0), key=lambda e: lanes[e])
        own = own if side > 0 else own[::-1]
        row = [("in", s, t) for s, t in own if t == node]
        row += [("bus", node, node)] if side > 0 and node in gathered else []
        row += [("out", s, t) for s, t in own[::-1] if s == node]
        centre = nodes[node].x + NODE_WIDTH / 2
        for place, key in enumerate(row):
            ports[key] = centre + (place - (len(row) - 1) / 2) * PORT
    return ports


CORNER, HEAD = 9.0, 10.0
"""Radius of a bent line, and length of an arrow's head."""


def cell_svg(
    genotype: Genotype, *, weights: Mapping[str, Any] | None = None, mark: str | None = None
) -> str:
    """Draw the cells of a genotype, one below the other.

    Args:
        genotype: what to draw.
        weights: for each cell (by name), the softmax weights (edges, operations) that it was
            derived from: a row for each edge of the supernet's cell, node by node and source by
            source, a column for each operation of the family. A drawn edge shows its weight as a
            number, and by how strong it is.
        mark: begins the picture's ids; None for one made from the cells. In a page that shows the
            same cells twice, pass a different one for each.

    Raises:
        InputError: the weights are not of this family.

    Example:
        >>> from selfexplain.spaces import Edge
        >>> skip, conv = Edge("skip_connect", 0), Edge("nor_conv_3x3", 0)
        >>> third = (conv, Edge("none", 1), Edge("skip_connect", 2))
        >>> cell = Cell(nodes=((conv,), (skip, Edge("none", 1)), third), concat=(3,))
        >>> cell_svg(Genotype("nasbench201", {"cell": cell})).count("nor_conv_3x3</text>")
        2
    """
    rules = FAMILIES[genotype.family]
    chosen = _chosen_weights(genotype, weights)
    spare = 0 if weights is None else len(" 0.00")
    layouts = {name: cell_layout(genotype.cells[name], rules.inputs, spare) for name in rules.cells}
    heights = [layout.size[1] for layout in layouts.values()]
    words = [_in_words(name, genotype.cells[name], rules.inputs) for name in rules.cells]
    cells = [
        _drawn_cell(layout, rules.inputs, chosen.get(name))
        | {"title": f"{name} cell" if len(layouts) > 1 else "cell", "top": sum(heights[:place])}
        for place, (name, layout) in enumerate(layouts.items())
    ]
    drawing = render(
        "cell.svg",
        mark=mark or f"cell-{crc32(' '.join(words).encode()):08x}",
        names=rules.cells,
        family=genotype.family,
        words=words,
        styles=STYLES,
        width=max(layout.size[0] for layout in layouts.values()),
        height=sum(heights),
        margin=MARGIN,
        cells=cells,
    )
    return str(drawing)


def _chosen_weights(
    genotype: Genotype, weights: Mapping[str, Any] | None
) -> dict[str, dict[tuple[int, int], float]]:
    """Cell -> (source, target) -> weight of the operation that the genotype has there."""
    if weights is None:
        return {}
    rules, chosen = FAMILIES[genotype.family], {}
    shape = (sum(range(rules.inputs, rules.inputs + rules.nodes)), len(rules.operations))
    for name in rules.cells:
        if name not in weights:
            raise InputError(
                f"weights has no {name!r}; pass the weights of {', '.join(rules.cells)}"
            )
        weights_EO = torch.as_tensor(weights[name]).detach()
        if tuple(weights_EO.shape) != shape:
            raise InputError(
                f"the weights of cell {name!r} have shape {tuple(weights_EO.shape)}; pass {shape}, "
                f"edges by operations of the family {genotype.family}"
            )
        chosen[name] = {
            (edge.source, node): float(
                weights_EO[
                    sum(range(rules.inputs, node)) + edge.source,
                    rules.operations.index(edge.operation),
                ]
            )
            for node, edges in enumerate(genotype.cells[name].nodes, start=rules.inputs)
            for edge in edges
        }
    return chosen


def _in_words(name: str, cell: Cell, inputs: int) -> str:
    sums = [
        f"node {number} is " + " plus ".join(f"{e.operation} of {e.source}" for e in edges)
        for number, edges in enumerate(cell.nodes, start=inputs)
    ]
    return f"{name}: {'; '.join(sums)}; the output is {', '.join(map(str, cell.concat))}."


def _drawn_cell(
    layout: CellLayout, inputs: int, weights: dict[tuple[int, int], float] | None
) -> dict[str, Any]:
    """Paths of the lines, and the texts of the nodes, of a cell."""
    strongest = max(weights.values()) if weights else 1.0
    wires = sorted(layout.wires, key=lambda wire: wire.source - wire.target)
    notes = dict.fromkeys(layout.nodes, "")
    # Of two inputs, the cell before the last and the last one.
    notes |= {n: f"input k-{inputs - n}" if inputs > 1 else "input" for n in range(inputs)}
    nodes = []
    if layout.output is None:
        notes[max(layout.nodes)] = "output"
    else:
        nodes = [(layout.output, "output", "concat")]
    return {
        "bus": [_path(points) for points in layout.bus],
        "bus_head": _head(layout.bus[0], 1.5) if layout.output else "",
        "wires": [
            _drawn_wire(wire, weights[wire.source, wire.target] if weights else None, strongest)
            for wire in wires
        ],
        "nodes": nodes + [(box, str(n), notes[n]) for n, box in layout.nodes.items()],
    }


def _drawn_wire(wire: Wire, weight: float | None, strongest: float) -> dict[str, Any]:
    name, corners = wire.operation, wire.corners
    look = name if name in STYLES else OTHER
    drawn = {
        "look": look,
        "label": wire.label,
        "width": STYLES[look].width,
        "dashes": " ".join(f"{dash:g}" for dash in STYLES[look].dashes) or "none",
        # The line ends inside the arrow's head, or it would show on both sides of the tip.
        "path": _path((*corners[:-1], _towards(corners[-1], corners[-2], HEAD * 0.7))),
        "head": _head(corners, STYLES[look].width),
    }
    words = f"{name} from node {wire.source} to node {wire.target}"
    if weight is None:
        return drawn | {"words": words, "text": name, "opacity": ""}
    return drawn | {
        "words": f"{words}, weight {weight:.3f}",
        "text": f"{name} {weight:.2f}",
        "opacity": f"{0.35 + 0.65 * weight / (strongest or 1.0):.2f}",
    }


def _head(corners: Corners, width: float) -> str:
    """The three points of an arrow's head."""
    (x, y), half = corners[-1], 3.2 + 0.46 * width
    a, b = _towards(corners[-1], corners[-2], HEAD)
    across, down = (y - b) / HEAD * half, (x - a) / HEAD * half
    return f"{x:g} {y:g} {a + across:g} {b + down:g} {a - across:g} {b - down:g}"


def _path(points: Corners) -> str:
    """Straight lines with rounded corners."""
    steps = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for before, (x, y), after in zip(points, points[1:], points[2:], strict=False):
        near, far = (_towards((x, y), other, CORNER) for other in (before, after))
        steps.append(f"L{near[0]:g} {near[1]:g}Q{x:g} {y:g} {far[0]:g} {far[1]:g}")
    return "".join([*steps, f"L{points[-1][0]:g} {points[-1][1]:g}"])


def _towards(point: Point, other: Point, distance: float) -> Point:
    (x, y), (a, b) = point, other
    share = distance / (abs(a - x) + abs(b - y))
    return x + (a - x) * share, y + (b - y) * share


# The cells of a genotype in words, for a terminal.


def cell_text(genotype: Genotype) -> str:
    """A line for each node: the operations that enter it, and on which node each works.

    Example:
        >>> from selfexplain.spaces import from_string
        >>> print(cell_text(from_string(
        ...     "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
        ... )))
        cell, input 0, output 3
          1 = nor_conv_3x3(0)
          2 = skip_connect(1)
          3 = nor_conv_1x1(2)
    """
    rules = FAMILIES[genotype.family]
    lines = []
    for name, cell in genotype.cells.items():
        inputs = " and ".join(str(number) for number in range(rules.inputs))
        output = " | ".join(str(number) for number in cell.concat)
        title = name if len(genotype.cells) == 1 else f"{name} cell"
        lines.append(f"{title}, input{'s' * (rules.inputs > 1)} {inputs}, output {output}")
        for number, edges in enumerate(cell.nodes, start=rules.inputs):
            terms = [f"{op}({source})" for op, source in edges if op != "none"]
            lines.append(f"  {number} = {' + '.join(terms) or 'nothing'}")
    return "\n".join(lines)
