"""From the rows of a comparison, one for each run, to one line for each objective."""

import statistics
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from selfexplain.evaluation import Scores, holm, paired_difference

SCORES = tuple(field.name for field in fields(Scores))
"""Scores that every run has."""
SOMETIMES = ("corrupted_accuracy", "corruptions", "total_cost")
"""Fields of a row that only some comparisons have."""

Row = dict[str, Any]


def summarise(rows: Sequence[Row], objectives: Sequence[str]) -> list[Row]:
    """Mean and std over seeds of each objective, and its paired difference to the first.

    Std is the sample's (None for one seed). The difference is of accuracy in percentage points,
    over the same seeds, with the 95 % interval of Student's t (`difference_ci95`), one for all
    differences together (`difference_simultaneous95`, Bonferroni), the p-value of the paired t-test
    and Holm's correction of it for the number of differences. Every number that all rows have is
    averaged.

    Example:
        >>> rows = [
        ...     {"objective": o, "accuracy": a, "nll": 0.5, "brier": 0.2, "ece": 1.0, "cost": 1.0}
        ...     for o, a in [("a", 90.0), ("b", 92.0), ("a", 91.0), ("b", 92.0)]
        ... ]
        >>> [s["difference_mean"] for s in summarise(rows, ("a", "b"))]
        [0.0, 1.5]
    """
    first, *others = objectives
    summary = [_means(name, [r for r in rows if r["objective"] == name]) for name in objectives]
    values = {name: [r["accuracy"] for r in rows if r["objective"] == name] for name in objectives}
    differences = {
        name: paired_difference(values[name], values[first], comparisons=max(1, len(others)))
        for name in objectives
    }
    corrected = dict(zip(others, holm([differences[o].p_value for o in others]), strict=True))
    for line in summary:
        name = line["objective"]
        line["difference_mean"] = differences[name].mean
        line["difference_ci95"] = differences[name].ci95
        line["difference_simultaneous95"] = differences[name].simultaneous95
        # The first is not compared with itself.
        line["difference_p"] = differences[name].p_value if name in corrected else None
        line["difference_p_holm"] = corrected.get(name)
    return summary


def _means(name: str, mine: Sequence[Row]) -> Row:
    """Mean and std of the scores, mean of the costs; runs of an older version lack some."""
    line: Row = {"objective": name, "n": len(mine)}
    for key in (*SCORES, "corrupted_accuracy"):
        if all(key in row for row in mine):
            values = [row[key] for row in mine]
            line[f"{key}_mean"] = statistics.fmean(values)
            line[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
    for key in ("cost", "total_cost"):
        if all(key in row for row in mine):
            line[key] = statistics.fmean(row[key] for row in mine)
    return line
