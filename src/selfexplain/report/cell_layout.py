"""Where the nodes, edges and labels of a drawn cell stand.

Nodes stand in one row, a column each. An edge between neighbours runs straight; any other runs in
a lane above or below the row, and enters its node from there. Its label stands in the lane, in the
gap before that node, where nothing runs up or down: so a label touches neither another label nor
another edge, whatever the cell.
"""

from dataclasses import dataclass
from itertools import count, product
from typing import NamedTuple

from selfexplain.report.cell_style import STYLES
from selfexplain.spaces import Cell

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
class Layout:
    """Where all of a cell stands; `bus` are the lines that gather the concatenated output."""

    nodes: dict[int, Box]
    output: Box | None
    wires: tuple[Wire, ...]
    bus: tuple[Corners, ...]
    size: Point


def cell_layout(cell: Cell, inputs: int, spare: int = 0) -> Layout:
    """Place the nodes, edges and labels of a cell that has this many inputs.

    Args:
        cell: what to place.
        inputs: how many inputs it has.
        spare: characters that every label needs beside its operation's name.
    """
    lanes = _lanes(cell, inputs)
    gap = (max(map(len, STYLES)) + spare) * CHARACTER + 50
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
        return Layout(nodes, None, tuple(wires), (), (right + MARGIN, bottom + MARGIN))
    output = Box(right + 40, nodes[last].y, END_WIDTH, NODE_HEIGHT)
    top, bus_y, centre = output.y + NODE_HEIGHT, bottom + 10, output.x + END_WIDTH / 2
    drops = [((ports["bus", n, n], top), (ports["bus", n, n], bus_y)) for n in gathered]
    line = (*drops[0], (centre, bus_y), (centre, top))
    size = (output.x + END_WIDTH + MARGIN, bus_y + MARGIN)
    return Layout(nodes, output, tuple(wires), (line, *drops[1:]), size)


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
