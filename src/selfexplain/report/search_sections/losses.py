"""How the losses of a search's levels went, and its supernet's accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfexplain.report.cell_style import STYLES

TITLES = {
    "explainer": "I. The explainer learns",
    "delta": "II. The explainer explains",
    "audience": "III. The audience learns",
    "validation": "IV. The explainer re-learns",
}
"""Level of learning by self-explanation -> what happens in it."""
PLAIN = {"explainer": "The weights learn", "validation": "The architecture learns"}
"""The same for a search without explanations."""
LINE = STYLES["nor_conv_1x1"].light
STEPS = ("-", "--", ":", "-.")
"""How the steps of the explanation are told apart."""


def level_figures(history: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """A small figure for each level's loss (mean over an epoch, nats), then of the accuracy.

    Args:
        history: lines of `search.jsonl`; an epoch in which a level had no loss (as that of the
            architecture in a warm-up, or where no step was finite) leaves a gap.

    Returns:
        Title -> figure; levels that the search has not are left out.

    Example:
        >>> line = {"epoch": 1, "losses": {"explainer": 2.3}, "validation_accuracy": 10.0}
        >>> list(level_figures([line]))
        ['The weights learn', 'The supernet on held-out images']
    """
    names = {name for line in history for name in line["losses"]}
    figures = {}
    for level, title in (TITLES if "audience" in names else PLAIN).items():
        steps = sorted((name for name in names if name.startswith(level)), key=_number)
        if steps:
            series = {s: [line["losses"].get(s) for line in history] for s in steps}
            figures[title] = _figure(history, series, "loss")
    accuracies = [line["validation_accuracy"] for line in history]
    title = "The supernet on held-out images"
    figures[title] = _figure(history, {"accuracy": accuracies}, "accuracy, %")
    return figures


def _number(name: str) -> int:
    """Of a step of the explanation: delta_10 comes after delta_9."""
    return int(name.rpartition("_")[2]) if "_" in name else 0


def _figure(
    history: Sequence[Mapping[str, Any]], series: Mapping[str, Sequence[float | None]], unit: str
) -> Figure:
    figure = Figure(figsize=(3.6, 2.1), layout="constrained")
    axes = figure.subplots()
    epochs = [line["epoch"] for line in history]
    for index, (name, values) in enumerate(series.items()):
        gaps = [float("nan") if value is None else value for value in values]
        axes.plot(
            epochs,
            gaps,
            label=name.replace("delta_", "step "),
            marker=".",
            color=LINE,
            linestyle=STEPS[index % len(STEPS)],
            linewidth=1.6,
        )
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel(unit, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False)
    return figure
