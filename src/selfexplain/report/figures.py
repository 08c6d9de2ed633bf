"""The figures: accuracy against cost, class maps of images, the architecture along a search.

Shape suffixes: T epochs, E edges of a cell, O operations.
"""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.text import Annotation, Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.evaluation.statistics import mean_interval
from selfexplain.files import atomic_file
from selfexplain.report.style import GREY, STYLES, method_styles
from selfexplain.spaces import FAMILIES

# Cost and accuracy together: what is clearly beaten in both, and when that leaves a Pareto front.


Row = dict[str, Any]
Interval = tuple[float, float] | None


def not_beaten(costs: Sequence[Interval], accuracies: Sequence[Interval]) -> list[int]:
    """Places of the methods of which none is clearly both cheaper and more accurate.

    Clearly: the intervals do not touch. One that is not known (None) touches all.

    Example:
        >>> not_beaten([(1.0, 1.1), (1.0, 1.1), (2.0, 2.1)], [(90, 91), None, (80, 81)])
        [0, 1]
    """
    return [
        i
        for i in range(len(costs))
        if not any(
            _below(costs[j], costs[i]) and _below(accuracies[i], accuracies[j])
            for j in range(len(costs))
        )
    ]


def _below(a: Interval, b: Interval) -> bool:
    """Whether an interval lies below another, without touching it."""
    return a is not None and b is not None and a[1] < b[0]


def certain_front(summary: Sequence[Row]) -> tuple[list[int], bool]:
    """Places of the methods that are not clearly beaten, and whether they are a Pareto front.

    They are, if no two of them touch, neither in cost nor in accuracy; then they stand by rising
    cost. Accuracies have the 95 % interval of their mean over seeds, costs that of their timing.

    Args:
        summary: rows with "accuracy_mean", "accuracy_std", "n", "cost" and "cost_ci95", the last
            two or the same of "total_cost".

    Example:
        >>> row = {"accuracy_mean": 90.0, "accuracy_std": None, "n": 1, "cost": 1.0}
        >>> certain_front([row, {**row, "cost": 2.0}])
        ([0, 1], False)
    """
    key = cost_key(summary)
    costs: list[Interval] = [row.get(f"{key}_ci95") for row in summary]
    accuracies = [
        mean_interval(row["accuracy_mean"], row["accuracy_std"], row.get("n", 1)) for row in summary
    ]
    front = sorted(not_beaten(costs, accuracies), key=lambda i: float(summary[i][key]))
    apart = all(
        _below(costs[i], costs[j]) and _below(accuracies[i], accuracies[j])
        for i, j in pairwise(front)
    )
    return front, apart and None not in [accuracies[i] for i in front]


def cost_key(summary: Sequence[Row]) -> str:
    """Which cost is drawn: that of all that is trained where every row has it, else of a step."""
    return "total_cost" if all("total_cost" in row for row in summary) else "cost"


# The picture of accuracy against cost, a Pareto front where there is one for certain.

NEAR = [(7, 5, "left"), (7, -13, "left"), (-7, 5, "right"), (-7, -13, "right")]
FAR = [
    (x, y, align)
    for row in range(2, 8)
    for x, align in ((12, "left"), (-12, "right"))
    for y in (5 + 12 * row, -13 - 12 * row)
]
PLACES = [*NEAR, *FAR]
"""Where a label may stand, in points from its own point, best first, and how it is aligned."""


def cost_figure(summary: Sequence[Row], *, size: tuple[float, float] = (7.5, 5)) -> Figure:
    """Each objective at its cost and mean accuracy, with the std over seeds where there is one.

    A Pareto front is drawn only if it is certain (`certain_front`). Objectives that are not clearly
    beaten in both are filled. The cost is that of all that is trained (`total_cost`) where every
    row has it, else of a step. It is drawn on a logarithmic axis if the dearest costs more than
    five times the cheapest.

    Args:
        summary: rows with "objective", "accuracy_mean", "accuracy_std", "n", "cost" and, if it
            was kept, "cost_ci95".
        size: width and height in inches.

    Example:
        >>> row = {"objective": "standard", "accuracy_mean": 90.0, "accuracy_std": None, "cost": 1}
        >>> cost_figure([row]).axes[0].get_ylabel()
        'accuracy (%)'
    """
    key = cost_key(summary)
    costs = [float(row[key]) for row in summary]
    accuracies = [row["accuracy_mean"] for row in summary]
    front, certain = certain_front(summary)
    figure = Figure(figsize=size, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    if max(costs) > 5 * min(costs):
        axes.set_xscale("log")
    axes.margins(0.12)
    axes.set_xlabel(f"cost of {'all training' if key == 'total_cost' else 'a step'} (standard = 1)")
    axes.set_ylabel("accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    if certain:
        axes.plot(
            [costs[i] for i in front],
            [accuracies[i] for i in front],
            color="black",
            linewidth=0.8,
            drawstyle="steps-post",
            label="Pareto front",
            zorder=1,
        )
    styles = method_styles([row["objective"] for row in summary])
    for i, row in enumerate(summary):
        colour = styles[row["objective"]].colour
        axes.errorbar(
            costs[i],
            accuracies[i],
            yerr=row["accuracy_std"],
            xerr=_around(costs[i], row.get(f"{key}_ci95")),
            fmt="o",
            color=colour,
            # Filled if not clearly beaten: seen without colours, too.
            markerfacecolor=colour if i in front else "none",
            elinewidth=1,
            capsize=2,
        )
    filled = "on the Pareto front" if certain else "not clearly beaten in both"
    axes.plot([], [], "o", color=GREY, label=f"filled: {filled}")
    axes.legend(loc="best", fontsize=8, frameon=False)
    canvas.draw()  # settles where the points are
    _label(canvas, axes, summary, costs, accuracies)
    return figure


def _around(value: float, interval: Interval) -> list[list[float]] | None:
    """An interval as what matplotlib adds on either side."""
    if interval is None:
        return None
    return [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def _label(
    canvas: FigureCanvasAgg,
    axes: Axes,
    summary: Sequence[Row],
    costs: Sequence[float],
    accuracies: Sequence[float],
) -> None:
    """Write each name at the first place where it covers no point, no bar and no other name.

    Where there is no such place, at the one where it covers least.
    """
    points = axes.transData.transform(list(zip(costs, accuracies, strict=True)))
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in points]
    taken += _bars(axes, summary, costs)
    for row, cost, accuracy in zip(summary, costs, accuracies, strict=True):
        name = row["objective"]
        best, least = None, float("inf")
        for place in PLACES:
            label = _annotate(axes, name, (cost, accuracy), place)
            label.update_positions(canvas.get_renderer())
            box = Text.get_window_extent(label, canvas.get_renderer())  # without the line to it
            covered = sum(_shared(box, other) for other in taken)
            covered += _outside(box, axes.bbox)
            label.remove()
            if covered < least:
                best, least = (place, box), covered
        assert best is not None
        _annotate(axes, name, (cost, accuracy), best[0])
        taken.append(best[1])


def _bars(axes: Axes, summary: Sequence[Row], costs: Sequence[float]) -> list[Bbox]:
    """Where the bars of the std are, in pixels."""
    boxes = []
    for row, cost in zip(summary, costs, strict=True):
        mean, std = row["accuracy_mean"], row["accuracy_std"] or 0.0
        (x, low), (_, high) = axes.transData.transform([(cost, mean - std), (cost, mean + std)])
        boxes.append(Bbox.from_extents(x - 2, low, x + 2, high))
    return boxes


def _annotate(
    axes: Axes, name: str, point: tuple[float, float], place: tuple[float, float, str]
) -> Annotation:
    x, y, align = place
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "relpos": (align == "right", 0.5)}
    label = axes.annotate(
        name,
        point,
        (x, y),
        textcoords="offset points",
        ha=align,
        fontsize=8,
        parse_math=False,
        arrowprops=line if abs(y) > 20 else None,
    )
    label.set_in_layout(False)  # else the axes would shrink and the points move
    return label


def _shared(a: Bbox, b: Bbox) -> float:
    """Area that two boxes share."""
    both = Bbox.intersection(a, b)
    return 0.0 if both is None else float(both.width * both.height)


def _outside(box: Bbox, frame: Bbox) -> float:
    """Area of a box that lies outside the frame."""
    return float(box.width * box.height) - _shared(box, frame)


# The picture of an explanation: image, class maps, and the soft target as bars.
#
# Shape suffixes: B images, C channels, H and W space, K classes.


RIVALS = 3
"""How many classes are shown beside the explained one."""


def explanation_figure(
    images_BCHW: Tensor,
    maps_BKHW: Tensor,
    target_BK: Tensor,
    explained_B: Tensor,
    class_names: Sequence[str],
    titles: Sequence[str],
) -> Figure:
    """One row an image: the image, its class's map, the three top rivals' maps, the soft target.

    Args:
        images_BCHW: images in [0, 1], one or three channels.
        maps_BKHW: class maps at any resolution.
        target_BK: soft target over the classes other than the explained one.
        explained_B: the explained class of each image.
        class_names: names of the K classes.
        titles: what is written over each image.

    Example:
        >>> import torch
        >>> figure = explanation_figure(
        ...     torch.rand(1, 1, 8, 8), torch.rand(1, 4, 2, 2), torch.rand(1, 4),
        ...     torch.tensor([2]), ["a", "b", "c", "d"], ["c 90 %"])
        >>> len(figure.axes)
        6
    """
    rows, rivals = len(images_BCHW), min(RIVALS, len(class_names) - 1)
    figure = Figure(figsize=(1.9 * (rivals + 2) + 2.6, 2.1 * rows + 0.5), layout="constrained")
    grid = figure.subplots(
        rows, rivals + 3, squeeze=False, width_ratios=[1.0] * (rivals + 2) + [1.4]
    )
    for axes, image_CHW, maps_KHW, target_K, explained, title in zip(
        grid, images_BCHW, maps_BKHW, target_BK, explained_B.tolist(), titles, strict=True
    ):
        order = target_K.argsort(descending=True).tolist()
        shown = [explained, *[k for k in order if k != explained][:rivals]]
        _draw_image(axes[0], image_CHW, title)
        scale = float(maps_KHW[shown].abs().max()) or 1.0
        for place, k in zip(axes[1:-1], shown, strict=True):
            _draw_map(place, image_CHW, maps_KHW[k], scale, class_names[k])
        _draw_bars(axes[-1], target_K, shown[1:], class_names)
    return figure


def top_classes_figure(
    images_BCHW: Tensor,
    maps_BKHW: Tensor,
    p_BK: Tensor,
    target_BK: Tensor,
    class_names: Sequence[str],
    *,
    top: int,
) -> Figure:
    r"""One row an image: the image, the maps of its most probable classes, the soft target's head.

    Args:
        images_BCHW: images in [0, 1], one or three channels.
        maps_BKHW: class maps at any resolution.
        p_BK: probabilities of the classes.
        target_BK: soft target over the classes other than the most probable one.
        class_names: names of the K classes.
        top: number of the maps, and of the target's bars.

    Example:
        >>> import torch
        >>> p = torch.tensor([[0.2, 0.1, 0.6, 0.1]])
        >>> figure = top_classes_figure(
        ...     torch.rand(1, 3, 8, 8), torch.rand(1, 4, 2, 2), p, p, ["a", "b", "c", "d"], top=2)
        >>> [axes.get_title() for axes in figure.axes[1:3]]
        ['c\n60 %', 'a\n20 %']
    """
    rows, top = len(images_BCHW), min(top, len(class_names))
    figure = Figure(figsize=(1.6 * (top + 1) + 2.6, 1.9 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, top + 2, squeeze=False, width_ratios=[1.0] * (top + 1) + [1.3])
    for axes, image_CHW, maps_KHW, p_K, target_K in zip(
        grid, images_BCHW, maps_BKHW, p_BK, target_BK, strict=True
    ):
        shown = p_K.topk(top).indices.tolist()
        _draw_image(axes[0], image_CHW, "image")
        scale = float(maps_KHW[shown].abs().max()) or 1.0
        for place, k in zip(axes[1:-1], shown, strict=True):
            title = f"{class_names[k]}\n{100 * float(p_K[k]):.0f} %"
            _draw_map(place, image_CHW, maps_KHW[k], scale, title)
        rivals = target_K.topk(min(top, len(class_names) - 1)).indices.tolist()
        _draw_bars(axes[-1], target_K, rivals, class_names)
        axes[-1].set_xlim(0, 1.1 * float(target_K.max()))  # among many, no share is large
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, atomically; the format follows the name's ending (png, svg, pdf).

    Raises:
        WriteError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.png"
        >>> save_figure(Figure(), path); path.exists()
        True
    """
    content = BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), dpi=130)
    with atomic_file(path) as file:
        file.write(content.getvalue())


def _draw_image(axes: Axes, image_CHW: Tensor, title: str) -> None:
    axes.imshow(_pixels(image_CHW), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.set_axis_off()


def _draw_map(axes: Axes, image_CHW: Tensor, map_HW: Tensor, scale: float, name: str) -> None:
    """The map over the grey image: red speaks for the class, blue against it."""
    height, width = image_CHW.shape[1:]
    axes.imshow(_pixels(image_CHW.mean(dim=0, keepdim=True)), cmap="gray", vmin=0, vmax=1)
    large = F.interpolate(map_HW[None, None], (height, width), mode="bilinear")[0, 0]
    axes.imshow(large.numpy(), cmap="RdBu_r", vmin=-scale, vmax=scale, alpha=0.6)
    axes.set_title(name, fontsize=9, parse_math=False)
    axes.set_axis_off()


def _draw_bars(axes: Axes, target_K: Tensor, rivals: list[int], names: Sequence[str]) -> None:
    axes.barh(range(len(rivals)), target_K[rivals].tolist(), color="tab:orange")
    shown = [names[k] for k in rivals]
    axes.set_yticks(range(len(rivals)), shown, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_title("soft target", fontsize=9)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _pixels(image_CHW: Tensor) -> np.ndarray:
    """(H, W) for grey, (H, W, 3) for colour."""
    pixels: np.ndarray = image_CHW.permute(1, 2, 0).squeeze(2).clamp(0, 1).numpy()
    return pixels


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
            raise InputError(
                f"the weights of cell {name!r} have several shapes; pass the epochs of one search"
            )
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
    raise InputError(
        f"no search space has cells with {edges} edges; pass one row of weights for each edge"
    )


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
