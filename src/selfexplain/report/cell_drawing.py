"""The graph of a genotype's cells as an SVG picture that needs nothing but itself."""

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import torch

from selfexplain.errors import InputError
from selfexplain.report.cell_layout import MARGIN, Box, Corners, Layout, Point, Wire, cell_layout
from selfexplain.report.cell_style import STYLES, css
from selfexplain.spaces import FAMILIES, Cell, Genotype

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
    parts, top, width = [], 0.0, max(layout.size[0] for layout in layouts.values())
    for name, layout in layouts.items():
        title = f"{name} cell" if len(layouts) > 1 else "cell"
        parts += [
            f'<g transform="translate(0 {top:g})">',
            f'<text class="title" x="{MARGIN:g}" y="26">{title}</text>',
            *_drawn_cell(layout, rules.inputs, chosen.get(name)),
            "</g>",
        ]
        top += layout.size[1]
    words = [_in_words(name, genotype.cells[name], rules.inputs) for name in rules.cells]
    mark = mark or f"cell-{crc32(' '.join(words).encode()):08x}"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="selfexplain-cell" role="img" '
        f'aria-labelledby="{mark}-title {mark}-desc" viewBox="0 0 {width:g} {top:g}" '
        f'width="{width:g}" height="{top:g}" style="max-width:100%;height:auto">',
        f'<title id="{mark}-title">{" and ".join(rules.cells)} of a {genotype.family} '
        "genotype</title>",
        f'<desc id="{mark}-desc">{" ".join(words)}</desc>',
        f"<style>{css()}</style>",
        f'<rect class="paper" width="{width:g}" height="{top:g}"/>',
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


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
            raise InputError(f"weights has no {name!r}; pass those of {', '.join(rules.cells)}")
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
    layout: Layout, inputs: int, weights: dict[tuple[int, int], float] | None
) -> list[str]:
    parts = [f'<path class="bus" d="{_path(points)}"/>' for points in layout.bus]
    strongest = max(weights.values()) if weights else 1.0
    for wire in sorted(layout.wires, key=lambda wire: wire.source - wire.target):
        weight = weights[wire.source, wire.target] if weights else None
        parts += _drawn_wire(wire, weight, strongest)
    notes = dict.fromkeys(layout.nodes, "")
    # Of two inputs, the cell before the last and the last one.
    notes |= {n: f"input k-{inputs - n}" if inputs > 1 else "input" for n in range(inputs)}
    if layout.output is None:
        notes[max(layout.nodes)] = "output"
    else:
        parts += [_head(layout.bus[0], 1.5, "bus-head")]
        parts += _drawn_node(layout.output, "output", "concat")
    for number, box in layout.nodes.items():
        parts += _drawn_node(box, str(number), notes[number])
    return parts


def _drawn_wire(wire: Wire, weight: float | None, strongest: float) -> list[str]:
    style, name, box = STYLES[wire.operation], wire.operation, wire.label
    words, text, shade = f"{name} from node {wire.source} to node {wire.target}", name, ""
    if weight is not None:
        words, text = f"{words}, weight {weight:.3f}", f"{name} {weight:.2f}"
        shade = f' opacity="{0.35 + 0.65 * weight / (strongest or 1.0):.2f}"'
    # The line ends inside the arrow's head, or it would show on both sides of the tip.
    path = _path((*wire.corners[:-1], _towards(wire.corners[-1], wire.corners[-2], HEAD * 0.7)))
    dashes = " ".join(f"{dash:g}" for dash in style.dashes) or "none"
    return [
        f'<g class="{name}"><title>{words}</title>',
        f'<path class="halo" d="{path}" stroke-width="{style.width + 4:g}"/>',
        f'<g{shade}><path class="wire" d="{path}" stroke-width="{style.width:g}" '
        f'stroke-dasharray="{dashes}"/>{_head(wire.corners, style.width, "head")}</g>',
        f'<rect class="tag" x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" '
        f'height="{box.height:g}" rx="4"/>',
        f'<text class="label" x="{box.x + box.width / 2:g}" y="{box.y + 14:g}">{text}</text></g>',
    ]


def _head(corners: Corners, width: float, name: str) -> str:
    (x, y), half = corners[-1], 3.2 + 0.46 * width
    a, b = _towards(corners[-1], corners[-2], HEAD)
    across, down = (y - b) / HEAD * half, (x - a) / HEAD * half
    points = f"{x:g} {y:g} {a + across:g} {b + down:g} {a - across:g} {b - down:g}"
    return f'<polygon class="{name}" points="{points}"/>'


def _drawn_node(box: Box, text: str, below: str) -> list[str]:
    x, y = box.x + box.width / 2, box.y + box.height / 2
    parts = [
        f'<rect class="node" x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" '
        f'height="{box.height:g}" rx="8"/>',
        f'<text class="name" x="{x:g}" y="{y + (0 if below else 5):g}">{text}</text>',
    ]
    return (
        [*parts, f'<text class="note" x="{x:g}" y="{y + 13:g}">{below}</text>'] if below else parts
    )


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
