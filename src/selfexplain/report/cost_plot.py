"""The picture of accuracy against cost, its Pareto front marked."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from selfexplain.report.palette import GREY, VERMILION
from selfexplain.report.pareto import pareto_front

Row = dict[str, Any]

ON, OFF = VERMILION, GREY
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

    The cost is that of all that is trained (`total_cost`) where every row has it, else of a step.
    It is drawn on a logarithmic axis if the dearest costs more than five times the cheapest.

    Args:
        summary: rows with "objective", "accuracy_mean", "accuracy_std" and "cost".
        size: width and height in inches.

    Example:
        >>> row = {"objective": "standard", "accuracy_mean": 90.0, "accuracy_std": None, "cost": 1}
        >>> cost_figure([row]).axes[0].get_ylabel()
        'accuracy (%)'
    """
    whole = all("total_cost" in row for row in summary)
    costs = [float(row["total_cost" if whole else "cost"]) for row in summary]
    accuracies = [row["accuracy_mean"] for row in summary]
    front = pareto_front(costs, accuracies)
    figure = Figure(figsize=size, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    if max(costs) > 5 * min(costs):
        axes.set_xscale("log")
    axes.margins(0.12)
    axes.set_xlabel(f"cost of {'all training' if whole else 'a step'} (standard = 1)")
    axes.set_ylabel("accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.plot(
        [costs[i] for i in front],
        [accuracies[i] for i in front],
        color=ON,
        linewidth=1,
        drawstyle="steps-post",
        label="Pareto front",
        zorder=1,
    )
    for i, row in enumerate(summary):
        axes.errorbar(
            costs[i],
            accuracies[i],
            yerr=row["accuracy_std"],
            fmt="o",
            color=ON if i in front else OFF,
            elinewidth=1,
            capsize=2,
        )
    axes.legend(loc="best", fontsize=8, frameon=False)
    canvas.draw()  # settles where the points are
    _label(canvas, axes, summary, costs, accuracies)
    return figure


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
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": OFF, "relpos": (align == "right", 0.5)}
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
