"""Learning curves: the mean over seeds as a line, their range as a band."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfexplain.report.html import Section, figure, linspace_indices, render
from selfexplain.report.sections.record import Record
from selfexplain.report.style import LineStyle, method_styles, series_of

TITLES = {
    "loss": "training loss",
    "train_accuracy": "accuracy in training, %",
    "accuracy": "accuracy on scored images, %",
    "nll": "NLL on scored images, nats",
    "ece": "ECE on scored images, %",
    "learning_rate": "learning rate",
}
"""What a curve is called, if not by its field's name."""
FIRST = ("loss", "train_accuracy", "accuracy", "nll", "ece")
"""Curves that are seen at once; the others are folded away."""
NOTHING = "The runs have no metrics: no epoch has ended yet, or their folders are missing."
NO_CURVE = ("epoch", "step_seconds")
MOST_POINTS = 100
"""Of a line; more cannot be told apart."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One number over the epochs: mean, least and greatest over the seeds."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    least: tuple[float, ...]
    greatest: tuple[float, ...]
    seeds: int


def curve_of(records: Sequence[Record], key: str) -> Curve | None:
    """Mean and range of a field of the metrics over runs that differ in their seeds.

    An epoch counts in which every run that has the field at all has a finite value: the mean of
    other runs would be another curve.

    Returns:
        None if there is no such epoch.

    Example:
        >>> runs = [Record(objective="a", seed=s, class_names=(),
        ...                metrics=({"epoch": 1, "loss": float(s)},)) for s in (1, 3)]
        >>> curve_of(runs, "loss")
        Curve(epochs=(1,), mean=(2.0,), least=(1.0,), greatest=(3.0,), seeds=2)
    """
    runs = [values for record in records if (values := _values(record, key))]
    epochs = sorted(set.intersection(*(set(values) for values in runs))) if runs else []
    if not epochs:
        return None
    kept = [epochs[i] for i in linspace_indices(len(epochs), MOST_POINTS)]
    columns = [[values[epoch] for values in runs] for epoch in kept]
    return Curve(
        tuple(kept),
        tuple(sum(column) / len(column) for column in columns),
        tuple(map(min, columns)),
        tuple(map(max, columns)),
        len(runs),
    )


def curve_names(records: Sequence[Record]) -> list[str]:
    """Fields of the metrics that have a curve, the usual ones first.

    Example:
        >>> curve_names([Record(objective="a", seed=0, class_names=(),
        ...                     metrics=({"epoch": 1, "distillation": 0.1, "loss": 0.5},))])
        ['loss', 'distillation']
    """
    found = {key for record in records for line in record.metrics for key in line}
    others = sorted(found - {*FIRST, *NO_CURVE})
    return [*(key for key in FIRST if key in found), *others]


def curves_section(records: Sequence[Record]) -> Section:
    """A chart for each number that the runs logged, a line for each objective.

    Example:
        >>> metrics = ({"epoch": 1, "loss": 2.0},)
        >>> run = Record(objective="a", seed=0, class_names=(), metrics=metrics)
        >>> "Line chart of training loss" in curves_section([run]).body
        True
    """
    names = curve_names(records)
    if not names:
        return Section("Learning curves", NOTHING)
    objectives = list(dict.fromkeys(record.objective for record in records))
    styles = method_styles(objectives)
    charts = {key: _chart(records, styles, key) for key in names}
    body = render(
        "curves.html",
        one_seed=len({record.seed for record in records}) == 1,
        legend=[_line(name, style) for name, style in styles.items()],
        first=[chart for key, chart in charts.items() if key in FIRST],
        others=[chart for key, chart in charts.items() if key not in FIRST],
    )
    return Section("Learning curves", body)


def _line(name: str, style: LineStyle) -> dict[str, object]:
    """An objective in the legend of all charts, its line as the charts draw it."""
    pattern = " ".join(f"{2 * length:g}" for length in style.dashes)
    return {"name": name, "series": series_of(style.colour), "dashes": pattern}


def _chart(records: Sequence[Record], styles: Mapping[str, LineStyle], key: str) -> Markup:
    drawn = Figure(figsize=(4.1, 2.7), layout="constrained")
    axes = drawn.subplots()
    ends = []
    for objective, (colour, dashes) in styles.items():
        curve = curve_of([r for r in records if r.objective == objective], key)
        if curve is None:
            continue
        marker = "o" if len(curve.epochs) == 1 else ""
        axes.plot(
            curve.epochs, curve.mean, marker, color=colour, dashes=dashes or (None, None), lw=1.8
        )
        if curve.seeds > 1:
            axes.fill_between(
                curve.epochs, curve.least, curve.greatest, color=colour, alpha=0.18, lw=0
            )
        ends.append(f"{objective} {curve.mean[-1]:.4g}")
    title = TITLES.get(key, key.replace("_", " "))
    axes.set_title(title[:60], loc="left", fontsize=10, parse_math=False)
    axes.set_xlabel("epoch", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins="auto"))
    axes.spines[["top", "right"]].set_visible(False)
    return figure(drawn, f"Line chart of {title} over the epochs; at the end: {', '.join(ends)}.")


def _values(record: Record, key: str) -> dict[int, float]:
    """Epoch -> finite value."""
    pairs = [(line["epoch"], line.get(key)) for line in record.metrics]
    return {epoch: v for epoch, v in pairs if isinstance(v, (int, float)) and abs(v) < 1e30}
