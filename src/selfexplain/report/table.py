"""The table of a comparison, for the terminal and for a file."""

from typing import Any

from rich.table import Table


def comparison_table(results: dict[str, Any]) -> Table:
    """Accuracy, difference, NLL, ECE and cost of each objective: mean and std over seeds.

    Args:
        results: what `results.json` holds.

    Example:
        >>> row = {"objective": "standard", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None,
        ...        "difference_mean": 0.0, "difference_ci95": None, "nll_mean": 0.3,
        ...        "nll_std": None, "ece_mean": 2.0, "ece_std": None, "cost": 1.0}
        >>> comparison_table({"summary": [row]}).row_count
        1
    """
    table = Table(title=None, header_style="bold")
    table.add_column("objective", overflow="fold")
    for name in ("accuracy %", "difference (95 % CI)", "NLL", "ECE %", "cost", "n"):
        table.add_column(name, justify="right")
    for row in results["summary"]:
        table.add_row(
            row["objective"],
            with_std(row["accuracy_mean"], row["accuracy_std"], 2),
            difference_text(row["difference_mean"], row["difference_ci95"]),
            with_std(row["nll_mean"], row["nll_std"], 3),
            with_std(row["ece_mean"], row["ece_std"], 1),
            f"{row['cost']:.2f}",
            str(row["n"]),
        )
    return table


def with_std(mean: float, std: float | None, digits: int) -> str:
    """A mean and its std.

    Example:
        >>> with_std(90.123, 0.5, 2), with_std(90.123, None, 1)
        ('90.12 ± 0.50', '90.1')
    """
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def difference_text(mean: float, ci95: tuple[float, float] | None) -> str:
    """A paired difference with its interval.

    Example:
        >>> difference_text(0.5, (-0.1, 1.1))
        '+0.50 (-0.10 to +1.10)'
    """
    return f"{mean:+.2f}" + ("" if ci95 is None else f" ({ci95[0]:+.2f} to {ci95[1]:+.2f})")
