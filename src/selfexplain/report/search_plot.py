"""The picture of a search: what each edge's operations weighed after each epoch.

Shape suffixes: T epochs, E edges of a cell, O operations.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.report.cell_style import STYLES
from selfexplain.spaces import FAMILIES

LEFT, RIGHT = 0.55, 0.08
"""Margins beside the panels, in inches. Fixed: to measure all labels takes as long as to draw."""


def architecture_figure(history: Sequence[Mapping[str, Any]], operations: Sequence[str]) -> Figure:
    """A panel for each edge, in a row with those that enter the same node; below, the entropy.

    Args:
        history: for each epoch, cell -> softmax weights (edges, operations), arrays or tensors:
            a row for each edge, node by node and source by source.
        operations: names of the columns.

    Raises:
        InputError: the history is empty, or its weights are not those of one search.

    Example:
        >>> even = torch.full((6, 5), 0.2)
        >>> operations = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
        >>> figure = architecture_figure([{"cell": even}, {"cell": even}], operations)
        >>> " | ".join(axes.get_title() for axes in figure.axes if axes.get_title())
        '0 → 1 | 0 → 2 | 1 → 2 | 0 → 3 | 1 → 3 | 2 → 3'
    """
    weights = _stacked(history, len(operations))
    pairs = _pairs(next(iter(weights.values())).shape[1])
    rows, columns = len({target for _, target in pairs}), 1 + max(source for source, _ in pairs)
    width, height = 0.9 + 1.3 * columns * len(weights), 2.3 + 1.15 * rows
    figure = Figure(figsize=(width, height))
    highest = 1.05 * max(float(w_TEO.max()) for w_TEO in weights.values())
    for place, (name, w_TEO) in enumerate(weights.items()):
        left = place / len(weights) + LEFT / width
        right = (place + 1) / len(weights) - RIGHT / width
        figure.text(
            (left + right) / 2,
            1 - 0.05 / height,
            name if name == "cell" else f"{name} cell",
            fontsize=10,
            horizontalalignment="center",
            verticalalignment="top",
        )
        grid = figure.add_gridspec(
            rows,
            columns,
            left=left,
            right=right,
            bottom=2.45 / height,
            top=1 - 0.4 / height,
            wspace=0.1,
            hspace=0.33,
        )
        _draw_cell(figure, grid, w_TEO, pairs, operations, highest)
    below = figure.add_gridspec(
        1, 1, left=LEFT / width, right=1 - RIGHT / width, bottom=0.45 / height, top=1.95 / height
    )
    _draw_entropy(figure.add_subplot(below[0]), weights)
    return figure


def _stacked(history: Sequence[Mapping[str, Any]], operations: int) -> dict[str, Tensor]:
    """Cell -> weights (T, E, O), checked."""
    if not history:
        raise InputError("history is empty; pass the weights of at least one epoch")
    stacked = {}
    for name in history[0]:
        if any(name not in epoch for epoch in history):
            raise InputError(f"an epoch has no cell {name!r}; pass the same cells for each epoch")
        epochs = [torch.as_tensor(epoch[name]).detach().double().cpu() for epoch in history]
        if any(w.ndim != 2 or w.shape[1] != operations for w in epochs):
            raise InputError(
                f"weights of cell {name!r} have shape {tuple(epochs[0].shape)}; "
                f"pass (edges, {operations}), a column for each operation"
            )
        if any(w.shape != epochs[0].shape for w in epochs):
            raise InputError(f"cell {name!r} has more edges in one epoch; pass those of one search")
        w_TEO = torch.stack(epochs)
        if (w_TEO < 0).any() or ((w_TEO.sum(dim=2) - 1).abs() > 1e-3).any():
            raise InputError(
                f"weights of cell {name!r} do not sum to 1 over the operations; "
                "pass them after softmax"
            )
        stacked[name] = w_TEO
    return stacked


def _pairs(edges: int) -> list[tuple[int, int]]:
    """(source, target) of each edge of the family of cells that has this many."""
    for rules in FAMILIES.values():
        targets = range(rules.inputs, rules.inputs + rules.nodes)
        pairs = [(source, target) for target in targets for source in range(target)]
        if len(pairs) == edges:
            return pairs
    raise InputError(f"no family has cells of {edges} edges; pass one row for each edge of a cell")


def _draw_cell(
    figure: Figure,
    grid: GridSpec,
    w_TEO: Tensor,
    pairs: list[tuple[int, int]],
    operations: Sequence[str],
    highest: float,
) -> None:
    """Rows are the nodes that edges enter, columns those that they leave."""
    first = pairs[0][1]
    for edge, (source, target) in enumerate(pairs):
        axes = figure.add_subplot(grid[target - first, source])
        for operation, w_T in zip(operations, w_TEO[:, edge].T, strict=True):
            _draw_line(axes, w_T, label=operation, **_look(operation))
        axes.set_title(f"{source} → {target}", fontsize=8, pad=2)
        axes.set_ylim(0, highest)
        outer_left, outer_bottom = source == 0, target - first == grid.nrows - 1
        axes.tick_params(labelleft=outer_left, labelbottom=outer_bottom)
        if outer_left:
            axes.set_ylabel("weight", fontsize=8)
        if outer_bottom:
            axes.set_xlabel("epoch", fontsize=8)
    # Above the diagonal no edge can be, which leaves room for the legend.
    room = grid[0, -1].get_position(figure)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="upper right",
        bbox_to_anchor=(room.x1, room.y1),
        fontsize=7,
        borderaxespad=0,
        frameon=False,
    )


def _draw_line(axes: Axes, values_T: Tensor, **look: Any) -> None:
    epochs = range(1, len(values_T) + 1)
    axes.plot(epochs, values_T.numpy(), marker="." if len(epochs) == 1 else None, **look)
    axes.set_xlim(0, len(epochs) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _look(operation: str) -> dict[str, Any]:
    """As in the drawing of a cell, thinner; skips and zeros, which may win, are as clear."""
    style = STYLES.get(operation)
    if style is None:
        return {"linewidth": 1.2}
    dashes = (0, tuple(dash / style.width for dash in style.dashes)) if style.dashes else "-"
    return {
        "color": style.light,
        "linewidth": max(1.3, 0.5 + 0.3 * style.width),
        "linestyle": dashes,
    }


def _draw_entropy(axes: Axes, weights: dict[str, Tensor]) -> None:
    """How undecided the search is: 0 when every edge has settled on one operation."""
    for (name, w_TEO), dashes in zip(weights.items(), ("-", "--") * len(weights), strict=False):
        entropy_T = torch.special.entr(w_TEO).sum(dim=2).mean(dim=1)
        _draw_line(axes, entropy_T, color="black", linestyle=dashes, label=name)
    highest = math.log(w_TEO.shape[2])
    axes.axhline(highest, color="#999999", linewidth=0.8, linestyle=":", label="all alike")
    axes.set_ylim(0, 1.08 * highest)
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel("mean entropy (nats)", fontsize=8)
    axes.legend(fontsize=7, loc="lower left", ncols=3, frameon=False)
