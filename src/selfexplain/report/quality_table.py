"""The table of evaluated explanations, for the terminal."""

from pathlib import PurePath
from typing import Any

from rich.table import Table

from selfexplain.report.frame import plain_table
from selfexplain.report.table import with_interval, with_spread

ARROWS = {"higher": "↑", "lower": "↓", "": ""}


def quality_table(results: dict[str, Any]) -> Table:
    """A row for each kind of map, metric and run, with the difference to the first run.

    Args:
        results: what `evaluate_explanations` returned.

    Example:
        >>> row = {"run": "runs/one", "kind": "cam", "metric": "deletion", "better": "lower",
        ...        "mean": 0.25, "std": 0.1, "n": 9}
        >>> quality_table({"rows": [row], "differences": []}).row_count
        1
    """
    differences = {(d["run"], d["kind"], d["metric"]): d for d in results["differences"]}
    several = bool(differences)
    table = plain_table(
        _caption(results["rows"], several),
        left=("maps", "metric", *(["run"] if several else [])),
        right=("mean ± std", *(["difference"] if several else [])),
    )
    names = _short_names([row["run"] for row in results["rows"]])
    last = ("", "")
    for row in _side_by_side(results["rows"]):
        kind, metric = row["kind"] or "model", f"{row['metric']} {ARROWS[row['better']]}".strip()
        cells = [kind if kind != last[0] else "", metric if (kind, metric) != last else ""]
        value, last = with_spread(row["mean"], row["std"], 3), (kind, metric)
        if several:
            difference = differences.get((row["run"], row["kind"], row["metric"]))
            table.add_row(*cells, names[row["run"]], value, _difference(difference))
        else:
            table.add_row(*cells, value)
    return table


def _short_names(runs: list[str]) -> dict[str, str]:
    """The last folders' names where they tell the runs apart, else the whole paths."""
    short = {run: PurePath(run).name for run in runs}
    return short if len(set(short.values())) == len(short) else {run: run for run in runs}


def _side_by_side(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all runs for one metric next to each other; runs in their order."""
    order = list(dict.fromkeys((row["kind"], row["metric"]) for row in rows))
    return sorted(rows, key=lambda row: order.index((row["kind"], row["metric"])))


def _difference(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return with_interval(row["mean"], row["ci95"], 3)


def _caption(rows: list[dict[str, Any]], several: bool) -> str:
    text = f"{rows[0]['n']} images, maps of the true class; ↑ higher is better, ↓ lower is better"
    if several:
        text += (
            "; difference to the first run on the same images, ± half of its 95 % interval: it "
            "speaks of these trained models, not of other seeds"
        )
    return text
