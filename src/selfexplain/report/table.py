"""The table of a comparison, for the terminal and for a file."""

from typing import Any

from rich import box
from rich.table import Table

HEADER = ("objective", "accuracy %", "difference", "NLL", "ECE %", "cost")


def comparison_table(results: dict[str, Any]) -> Table:
    """Accuracy, paired difference, NLL, ECE and cost of each objective; 80 columns suffice.

    Args:
        results: what `results.json` holds.

    Example:
        >>> row = {"objective": "standard", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "difference_mean": 0.0, "difference_ci95": None, "nll_mean": 0.3,
        ...        "nll_std": None, "ece_mean": 2.0, "ece_std": None, "cost": 1.0}
        >>> comparison_table({"summary": [row]}).row_count
        1
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        caption=_caption(results),
        caption_justify="left",
    )
    table.add_column(HEADER[0], overflow="fold")
    for name in _header(results["summary"])[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in results["summary"]:
        table.add_row(*_cells(row, row is results["summary"][0]))
    return table


def comparison_markdown(results: dict[str, Any]) -> str:
    """The same table in Markdown, its caption below.

    Example:
        >>> row = {"objective": "standard", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "difference_mean": 0.0, "difference_ci95": None, "nll_mean": 0.3,
        ...        "nll_std": None, "ece_mean": 2.0, "ece_std": None, "cost": 1.0}
        >>> print(comparison_markdown({"summary": [row]}).splitlines()[2])
        | standard | 90.00 |  | 0.300 | 2.0 | 1.00 |
    """
    summary = results["summary"]
    header = _header(summary)
    rows = [header, ("---", *["---:"] * (len(header) - 1))]
    rows += [_cells(row, row is summary[0]) for row in summary]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, "", f"*{_caption(results)}*", ""])


def _header(summary: list[dict[str, Any]]) -> tuple[str, ...]:
    return (*HEADER, "total") if "total_cost" in summary[0] else HEADER


def _caption(results: dict[str, Any]) -> str:
    n = results["summary"][0]["n"]
    total = ""
    if "total_cost" in results["summary"][0]:
        total = "; total: with the training of its teachers"
        if results.get("config", {}).get("teacher") is not None:
            total += ", that of the given teacher counted as 0"
    return (
        f"mean ± std over {n} seed{'s' if n > 1 else ''}; difference in accuracy to "
        f"{results['summary'][0]['objective']}, same seeds, ± half of its 95 % interval; cost in "
        f"steps of the standard one{total}"
    )


def _cells(row: dict[str, Any], is_first: bool) -> tuple[str, ...]:
    return (
        row["objective"],
        with_spread(row["accuracy_mean"], row["accuracy_std"], 2),
        _difference(row["difference_mean"], row["difference_ci95"], is_first),
        with_spread(row["nll_mean"], row["nll_std"], 3),
        with_spread(row["ece_mean"], row["ece_std"], 1),
        f"{row['cost']:.2f}",
        *([f"{row['total_cost']:.2f}"] if "total_cost" in row else []),
    )


def with_spread(mean: float, spread: float | None, digits: int, sign: str = "") -> str:
    """A mean and its spread, where there is one.

    Example:
        >>> with_spread(90.123, 0.5, 2), with_spread(90.123, None, 1)
        ('90.12 ± 0.50', '90.1')
    """
    return f"{mean:{sign}.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def _difference(mean: float, ci95: tuple[float, float] | None, is_first: bool) -> str:
    """The paired difference with half of its interval; nothing for the first itself."""
    if is_first:
        return ""
    return with_spread(mean, None if ci95 is None else (ci95[1] - ci95[0]) / 2, 2, sign="+")
