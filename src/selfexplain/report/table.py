"""The table of a comparison, for the terminal and for a file."""

from collections.abc import Callable
from typing import Any

from rich.table import Table

from selfexplain.report.caption import caption, survives
from selfexplain.report.frame import markdown_table, plain_table

Row = dict[str, Any]


def comparison_table(results: dict[str, Any]) -> Table:
    """Accuracy, paired difference, NLL, ECE and cost of each objective; 80 columns suffice.

    With accuracy under corruptions there is a column more, and NLL and ECE stand without their
    spread, for which there is no room.

    Args:
        results: what `results.json` holds.

    Example:
        >>> row = {"objective": "standard", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "difference_mean": 0.0, "difference_ci95": None, "nll_mean": 0.3,
        ...        "nll_std": None, "ece_mean": 2.0, "ece_std": None, "cost": 1.0}
        >>> comparison_table({"summary": [row]}).row_count
        1
    """
    summary = results["summary"]
    columns = _columns(summary, short="corrupted_accuracy_mean" in summary[0])
    first, *others = columns
    table = plain_table(caption(results), left=[first], right=others)
    for row in summary:
        table.add_row(*(cell(row) for cell in columns.values()))
    return table


def comparison_markdown(results: dict[str, Any]) -> str:
    """The same table in Markdown, with every spread, its caption below.

    Example:
        >>> row = {"objective": "standard", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "difference_mean": 0.0, "difference_ci95": None, "nll_mean": 0.3,
        ...        "nll_std": None, "ece_mean": 2.0, "ece_std": None, "cost": 1.0}
        >>> print(comparison_markdown({"summary": [row]}).splitlines()[2])
        | standard | 90.00 |  | 0.300 | 2.0 | 1.00 |
    """
    header, rows = comparison_cells(results)
    return markdown_table(header, rows, caption(results))


def comparison_cells(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the same table, with every spread.

    Example:
        >>> row = {"objective": "standard", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "difference_mean": 0.0, "difference_ci95": None, "nll_mean": 0.3,
        ...        "nll_std": None, "ece_mean": 2.0, "ece_std": None, "cost": 1.0}
        >>> comparison_cells({"summary": [row]})[1]
        [['standard', '90.00', '', '0.300', '2.0', '1.00']]
    """
    columns = _columns(results["summary"], short=False)
    rows = [[cell(row) for cell in columns.values()] for row in results["summary"]]
    return list(columns), rows


def _columns(summary: list[Row], *, short: bool) -> dict[str, Callable[[Row], str]]:
    """Heading -> what stands below it for a row."""

    def score(name: str, digits: int, *, spread: bool = True) -> Callable[[Row], str]:
        return lambda row: with_spread(
            row[f"{name}_mean"], row[f"{name}_std"] if spread else None, digits
        )

    columns = {
        "objective": lambda row: str(row["objective"]),
        "accuracy %": score("accuracy", 2),
        "difference": lambda row: "" if row is summary[0] else _difference(row),
        "NLL": score("nll", 3, spread=not short),
        "ECE %": score("ece", 1, spread=not short),
    }
    if "corrupted_accuracy_mean" in summary[0]:
        columns["corrupted"] = score("corrupted_accuracy", 1)
    columns["cost"] = lambda row: f"{row['cost']:.2f}"
    if "total_cost" in summary[0]:
        columns["total"] = lambda row: f"{row['total_cost']:.2f}"
    return columns


def with_spread(mean: float, spread: float | None, digits: int, sign: str = "") -> str:
    """A mean and its spread, where there is one.

    Example:
        >>> with_spread(90.123, 0.5, 2), with_spread(90.123, None, 1)
        ('90.12 ± 0.50', '90.1')
    """
    return f"{mean:{sign}.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def with_interval(difference: float, ci95: tuple[float, float] | None, digits: int) -> str:
    """A difference and half of its interval, where there is one.

    Example:
        >>> with_interval(0.5, (0.25, 0.75), 2)
        '+0.50 ± 0.25'
    """
    half = None if ci95 is None else (ci95[1] - ci95[0]) / 2
    return with_spread(difference, half, digits, sign="+")


def _difference(row: Row) -> str:
    """The paired difference, half of its interval, and a star if it survives the correction."""
    if row["difference_mean"] is None:
        return "unknown"
    text = with_interval(row["difference_mean"], row["difference_ci95"], 2)
    return text + ("*" if survives(row) else "")
