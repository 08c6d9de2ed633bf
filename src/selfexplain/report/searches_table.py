"""The table of searches with several seeds, for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from selfexplain.report.frame import plain_table
from selfexplain.report.table import with_spread


def searches_table(results: dict[str, Any]) -> Table:
    """One line a seed; below, what the seeds have in common.

    Args:
        results: what `searches.json` holds.

    Example:
        >>> row = {"seed": 0, "skips": 1, "edges": 6, "collapsed": False, "epochs": 2}
        >>> summary = {"n": 1, "different_cells": 1, "collapsed": 0, "skips_mean": 1.0,
        ...            "skips_std": None, "validation_accuracy_mean": None}
        >>> searches_table({"rows": [row], "summary": summary}).row_count
        1
    """
    columns = ("seed", "epochs", "validation %", "skips", "")
    table = plain_table(searches_caption(results["summary"]), left=(), right=columns)
    for row in results["rows"]:
        accuracy = row.get("validation_accuracy")
        table.add_row(
            str(row["seed"]),
            str(row["epochs"]),
            "" if accuracy is None else f"{accuracy:.2f}",
            f"{row['skips']} of {row['edges']}",
            "collapsed" if row["collapsed"] else "",
        )
    return table


def searches_caption(summary: Mapping[str, Any]) -> str:
    """What the seeds have in common, in words.

    Args:
        summary: of `searches.json`.

    Example:
        >>> searches_caption({"n": 1, "different_cells": 1, "collapsed": 0, "skips_mean": 1.0,
        ...                   "skips_std": None, "validation_accuracy_mean": None})
        '1.0 skip connections; 1 different cell from 1 seed, 0 collapsed'
    """
    accuracy = ""
    if summary["validation_accuracy_mean"] is not None:
        mean, std = summary["validation_accuracy_mean"], summary["validation_accuracy_std"]
        accuracy = f"supernet's accuracy on held-out images {with_spread(mean, std, 2)} %; "
    return (
        f"{accuracy}{with_spread(summary['skips_mean'], summary['skips_std'], 1)} skip "
        f"connections; {_counted(summary['different_cells'], 'different cell')} "
        f"from {_counted(summary['n'], 'seed')}, "
        f"{summary['collapsed']} collapsed"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
