"""The table and the bar chart of a study of distillation."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from selfexplain.report.style import method_styles
from selfexplain.report.tables import (
    markdown_table,
    plain_table,
    unfinished,
    with_interval,
    with_spread,
)

HEADER = ("taught", "accuracy %", "gain", "share of full %", "NLL")


def study_table(study: dict[str, Any]) -> Table:
    """Accuracy, gain over plain training and share of the whole teacher's gain of each part.

    Args:
        study: what `study.json` holds.

    Example:
        >>> row = {"part": "plain", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "gain_mean": 0.0, "gain_ci95": None, "share": None, "share_ci95": None,
        ...        "nll_mean": 0.3, "nll_std": None}
        >>> study_table({"rows": [row]}).row_count
        1
    """
    table = plain_table(study_caption(study), left=HEADER[:1], right=HEADER[1:])
    for cells in study_cells(study):
        table.add_row(*cells)
    return table


def study_markdown(study: dict[str, Any]) -> str:
    """The same table in Markdown, its caption below.

    Example:
        >>> row = {"part": "plain", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "gain_mean": 0.0, "gain_ci95": None, "share": None, "share_ci95": None,
        ...        "nll_mean": 0.3, "nll_std": None}
        >>> print(study_markdown({"rows": [row]}).splitlines()[2])
        | plain | 90.00 |  |  | 0.300 |
    """
    return markdown_table(HEADER, study_cells(study), study_caption(study))


def study_figure(study: dict[str, Any]) -> Figure:
    """A bar for the gain of each part that has one, with its interval where there is one.

    Example:
        >>> row = {"part": "full", "n": 2, "gain_mean": 1.0, "gain_ci95": (0.5, 1.5)}
        >>> len(study_figure({"rows": [{**row, "part": "plain"}, row]}).axes[0].patches)
        1
    """
    rows = [row for row in study["rows"] if row["part"] != "plain"]
    figure = Figure(figsize=(6.4, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    styles = method_styles([row["part"] for row in study["rows"]])
    for place, row in enumerate(rows):
        if row["gain_mean"] is not None:
            axes.barh(place, row["gain_mean"], color=styles[row["part"]].colour)
        if row["gain_ci95"] is not None:
            axes.plot(row["gain_ci95"], [place, place], color="black", linewidth=1.2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["part"] for row in rows], parse_math=False)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)  # room for parts that have no bar, too
    seeds = _seeds(study["rows"][0]["n"])
    axes.set_xlabel(
        f"gain in accuracy over plain training, percentage points ({seeds}, 95 % intervals)"
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def study_cells(study: dict[str, Any]) -> list[tuple[str, ...]]:
    """What stands in each row of the table, below `HEADER`.

    Example:
        >>> row = {"part": "plain", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "gain_mean": 0.0, "gain_ci95": None, "share": None, "share_ci95": None,
        ...        "nll_mean": 0.3, "nll_std": None}
        >>> study_cells({"rows": [row]})
        [('plain', '90.00', '', '', '0.300')]
    """
    return [_cells(row) for row in study["rows"]]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    blank = row["part"] == "plain" or row["gain_mean"] is None
    return (
        row["part"],
        with_spread(row["accuracy_mean"], row["accuracy_std"], 2),
        "" if blank else with_interval(row["gain_mean"], row["gain_ci95"], 2),
        "" if blank else _share(row["share"], row["share_ci95"]),
        f"{row['nll_mean']:.3f}",
    )


def _share(share: float | None, ci95: tuple[float, float] | None) -> str:
    if share is None or ci95 is None:
        return ""
    return f"{100 * share:.0f} ({100 * ci95[0]:.0f} to {100 * ci95[1]:.0f})"


def study_caption(study: dict[str, Any]) -> str:
    """How the numbers of the table were made.

    Example:
        >>> study_caption({"rows": [{"part": "plain", "n": 1, "share": None}]})[:23]
        'mean ± std over 1 seed;'
    """
    return "; ".join(
        [
            *unfinished(study),
            f"mean ± std over {_seeds(study['rows'][0]['n'])}",
            "gain in accuracy over plain training, same seeds, ± half of its 95 % interval",
            "share of the gain of full, with its 95 % interval",
            *_no_shares(study["rows"]),
        ]
    )


def _no_shares(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Why there are no shares, where there are none."""
    if any(row["share"] is not None for row in rows):
        return []
    if all(row["part"] != "full" or row["gain_mean"] is None for row in rows):
        return ["no shares, because no seed has finished both full and plain"]
    return ["no shares, because the gain of full is not clearly above 0"]


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"
