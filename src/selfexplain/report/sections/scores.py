"""The table of results: of a comparison, of a study, of a single run."""

from typing import Any

from selfexplain.report.caption import caption
from selfexplain.report.html import Section, figure, paragraph, scroll, table
from selfexplain.report.sections.facts import facts
from selfexplain.report.sections.record import Record
from selfexplain.report.study import HEADER, study_caption, study_cells, study_figure
from selfexplain.report.table import comparison_cells

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


def comparison_results(results: dict[str, Any]) -> Section:
    """The table of a comparison, with intervals.

    Args:
        results: what `results.json` holds.

    Example:
        >>> row = {"objective": "standard", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "difference_mean": 0.0, "difference_ci95": None, "nll_mean": 0.3,
        ...        "nll_std": None, "ece_mean": 2.0, "ece_std": None, "cost": 1.0}
        >>> comparison_results({"config": {"seeds": [0]}, "summary": [row]}).body[:14]
        '<p>seed 0.</p>'
    """
    header, rows = comparison_cells(results)
    config = results["config"]
    about = paragraph(facts(config, config.get("environment", {})))
    return Section("Results", about + table(header, rows, caption=caption(results)))


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
    rows = table(HEADER, study_cells(study), caption=study_caption(study))
    return Section(
        "Which part of the teacher carries the gain",
        rows + scroll(bars, "whole", "bar chart of the gains"),
    )


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
    return Section("Results", paragraph(about) + table(["score", record.name], rows, caption=text))
