"""The table of results: of a comparison, of a study, of a single run."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from selfexplain.report.figures import certain_front, cost_figure, cost_key
from selfexplain.report.forest import forest_figure
from selfexplain.report.html import Section, download, figure, paragraph, render
from selfexplain.report.publish import Block
from selfexplain.report.publish import table as publish_table
from selfexplain.report.sections.record import Record
from selfexplain.report.study import HEADER, study_caption, study_cells, study_figure
from selfexplain.report.style import method_styles, series_of
from selfexplain.report.tables import caption, comparison_cells, latex_table

# In one sentence, what was trained on what, how long and where.


def facts(config: dict[str, Any], environment: dict[str, Any]) -> str:
    """What a saved configuration says that readers ask first; what it does not say is left out.

    Args:
        config: of a run or a comparison.
        environment: saved beside it; may be empty.

    Example:
        >>> facts({"model": "small_cnn", "data": {"data": "digits"}, "seeds": [0, 1],
        ...        "training": {"epochs": 30, "batch_size": 50}}, {})
        'small_cnn on digits, 30 epochs in batches of 50, seeds 0, 1.'
    """
    training = config.get("training", {})
    seeds = config.get("seeds", [config["seed"]] if "seed" in config else [])
    versions = environment.get("versions", {})
    parts = [
        f"{config.get('model', 'a network of a genotype')} on {config['data']['data']}"
        if "data" in config
        else "",
        _length(training),
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if seeds else "",
        str(environment.get("hardware", "")),
        f"selfexplain {versions['selfexplain']}" if "selfexplain" in versions else "",
    ]
    return f"{', '.join(part for part in parts if part)}."


def _length(training: dict[str, Any]) -> str:
    """Epochs and batch size, as far as they are known: other loops may know of neither."""
    epochs = f"{training['epochs']} epochs" if "epochs" in training else ""
    batches = f"batches of {training['batch_size']}" if "batch_size" in training else ""
    return " in ".join(part for part in (epochs, batches) if part)


SCORES = {
    "accuracy": ("accuracy, %", 2),
    "nll": ("negative log-likelihood (NLL), nats", 3),
    "brier": ("Brier score", 3),
    "ece": ("expected calibration error (ECE), %", 2),
    "adaptive_ece": ("the same over bins of equal mass, %", 2),
    "aurc": ("area under the risk-coverage curve, %", 2),
    "excess_aurc": ("that area above the least possible, %", 2),
    "nll_scaled": ("NLL after temperature scaling, nats", 3),
    "ece_scaled": ("ECE after temperature scaling, %", 2),
    "corrupted_accuracy": ("accuracy on corrupted images, %", 2),
}
"""Field of a result -> what it is called, and digits."""


def comparison_results(results: dict[str, Any], block: Block | None = None) -> Section:
    """The table of a comparison, with intervals, and the picture of its paired differences.

    Args:
        results: what `results.json` holds.
        block: its runs, one by one; None if they were not kept.

    Example:
        >>> row = {"objective": "standard", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "difference_mean": 0.0, "difference_ci95": None, "nll_mean": 0.3,
        ...        "nll_std": None, "ece_mean": 2.0, "ece_std": None, "cost": 1.0}
        >>> comparison_results({"config": {"seeds": [0]}, "summary": [row]}).body[:14]
        Markup('<p>seed 0.</p>')
    """
    header, rows = comparison_cells(results)
    config = results["config"]
    said = caption(results)
    colours = swatches([row[0] for row in rows])
    body = render(
        "results.html",
        about=facts(config, config.get("environment", {})),
        table={"header": header, "rows": rows, "caption": said, "swatches": colours},
        downloads=_saved(block, header, rows, said),
    )
    return Section("Results", body, () if block is None else _differences(block))


def _differences(block: Block) -> tuple[Section, ...]:
    """The paired differences as a picture, if there are any."""
    found = {name: d for name, d in block.differences("accuracy").items() if d is not None}
    if not found:
        return ()
    said = ", ".join(f"{name} {each.paired.mean:+.2f}" for name, each in found.items())
    chart = figure(forest_figure([block]), f"Forest plot of the differences: {said}.")
    body = render("results.html", chart=chart, wide="paired differences")
    return (Section(f"Differences to {block.objectives[0]}", body),)


def _saved(
    block: Block | None, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str
) -> list[Markup]:
    """Links that save the table: as `selfexplain table` writes it, where the runs were kept."""
    if block is None:
        return downloads("results", header, rows, caption)
    return [
        download("CSV", "results.csv", publish_table([block], "csv")),
        download("LaTeX", "results.tex", publish_table([block], "latex")),
    ]


def swatches(names: Sequence[str]) -> dict[str, int]:
    """The number of each method's colour, for the rows of a table.

    Example:
        >>> swatches(["introspective"])
        {'introspective': 1}
    """
    return {name: series_of(style.colour) for name, style in method_styles(names).items()}


def downloads(
    stem: str, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str
) -> list[Markup]:
    """Links that save a table as CSV and as LaTeX.

    Example:
        >>> [link.striptags() for link in downloads("a", ["x"], [["1"]], "none")]
        ['CSV', 'LaTeX']
    """
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return [
        download("CSV", f"{stem}.csv", text.getvalue()),
        download("LaTeX", f"{stem}.tex", latex_table(header, rows, caption)),
    ]


def study_results(study: dict[str, Any]) -> Section:
    """What each part of a teacher's output brings: table and bars.

    Args:
        study: what `study.json` holds.

    Example:
        >>> row = {"part": "full", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "gain_mean": 0.5, "gain_ci95": None, "share": None, "share_ci95": None,
        ...        "nll_mean": 0.3, "nll_std": None}
        >>> "full: +0.50" in study_results({"rows": [row]}).body
        True
    """
    bars = figure(study_figure(study), f"Bar chart of the gains in the table. {_gains(study)}")
    body = render(
        "results.html",
        table={"header": HEADER, "rows": study_cells(study), "caption": study_caption(study)},
        chart=bars,
        wide="bar chart of the gains",
    )
    return Section("Which part of the teacher carries the gain", body)


def _gains(study: dict[str, Any]) -> str:
    return ", ".join(
        f"{row['part']}: {row['gain_mean']:+.2f}"
        for row in study["rows"]
        if row["part"] != "plain" and row["gain_mean"] is not None
    )


def run_results(record: Record, about: str) -> Section:
    """The scores of a single run.

    Args:
        record: the run.
        about: what was trained on what, as text.

    Example:
        >>> record = Record(objective="a", seed=0, class_names=(), result={"accuracy": 90.0})
        >>> '<th scope="row">accuracy, %</th><td>90.00</td>' in run_results(record, "digits").body
        True
    """
    result = record.result
    if result is None:
        text = "This run is not finished: it has no scores yet."
        return Section("Results", paragraph(about) + paragraph(text))
    rows = [
        [name, f"{result[key]:.{digits}f}"]
        for key, (name, digits) in SCORES.items()
        if key in result
    ]
    text = "scores of the model of the last epoch on the images that the run was scored on"
    table = {"header": ["score", record.name], "rows": rows, "caption": text}
    return Section("Results", render("results.html", about=about, table=table))


# Accuracy against cost.


def _front_said(summary: Sequence[dict[str, Any]]) -> str:
    """What the picture shows for certain."""
    places, certain = certain_front(summary)
    names = ", ".join(summary[i]["objective"] for i in places)
    timed = all(f"{cost_key(summary)}_ci95" in row for row in summary)
    bars = "Upright bars are the standard deviation over seeds" + (
        ", level ones the 95 % interval of the timing." if timed else "."
    )
    if certain:
        return (
            f"On the Pareto front, where nothing is both cheaper and more accurate: {names}. {bars}"
        )
    if len(places) == len(summary):
        return (
            "No objective is clearly both cheaper and more accurate than another: 95 % intervals "
            f"touch, so there is no Pareto front to draw. {bars}"
        )
    return (
        f"Not clearly beaten in both cost and accuracy: {names}. Their 95 % intervals touch, so "
        f"which of them are a Pareto front cannot be said. {bars}"
    )


FEW = 6
"""Names of so many methods fit a phone's width."""


def cost_section(results: dict[str, Any]) -> Section:
    """What each objective costs and how accurate it is, the Pareto front marked.

    Args:
        results: what `results.json` holds.

    Example:
        >>> row = {"objective": "standard", "accuracy_mean": 90.0, "accuracy_std": None, "cost": 1}
        >>> "standard: cost 1.00, accuracy 90.00 %" in cost_section({"summary": [row]}).body
        True
    """
    summary = [row for row in results["summary"] if "cost" in row]
    if not summary:
        return Section("Accuracy against cost", "The costs are not timed yet.")
    names = [row["objective"] for row in summary]
    key = cost_key(summary)
    points = "; ".join(
        f"{row['objective']}: cost {row[key]:.2f}, accuracy {row['accuracy_mean']:.2f} %"
        for row in summary
    )
    few = len(names) <= FEW
    drawn = cost_figure(summary, size=(4.3, 3.5) if few else (7.5, 5))
    body = render(
        "results.html",
        about=_front_said(summary),
        chart=figure(drawn, f"Scatter plot. {points}."),
        **({} if few else {"wide": "accuracy against cost"}),
    )
    return Section("Accuracy against cost", body)
