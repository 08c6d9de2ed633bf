"""From the rows of a comparison, one for each run, to one line for each objective."""

import statistics
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from selfexplain.evaluation import PairedDifference, Scores, holm, paired_difference

SCORES = tuple(field.name for field in fields(Scores))
"""Scores that every run has."""
SOMETIMES = ("corrupted_accuracy", "corruptions", "total_cost")
"""Fields of a row that only some comparisons have."""

Row = dict[str, Any]


def summarise(rows: Sequence[Row], objectives: Sequence[str]) -> list[Row]:
    """Mean and std over seeds of each objective, and its paired difference to the first.

    Std is the sample's (None for one seed). The difference is of accuracy in percentage points,
    over the seeds that both have (None if there are none), with the 95 % interval of Student's t
    (`difference_ci95`), one for all differences together (`difference_simultaneous95`, Bonferroni),
    the p-value of the paired t-test and Holm's correction of it for the number of differences.
    Every number that all rows have is averaged.

    Example:
        >>> rows = [
        ...     {"objective": o, "seed": s, "accuracy": a, "nll": 0.5, "ece": 1.0, "cost": 1.0}
        ...     for o, s, a in [("a", 0, 90.0), ("b", 0, 92.0), ("a", 1, 91.0), ("b", 1, 92.0)]
        ... ]
        >>> [s["difference_mean"] for s in summarise(rows, ("a", "b"))]
        [0.0, 1.5]
    """
    first, *others = objectives
    summary = [_means(name, [r for r in rows if r["objective"] == name]) for name in objectives]
    differences = {
        name: _difference(rows, name, first, comparisons=max(1, len(others))) for name in objectives
    }
    p_values = {name: None if d is None else d.p_value for name, d in differences.items()}
    corrected = dict(zip(others, holm([p_values[name] for name in others]), strict=True))
    for line in summary:
        name = line["objective"]
        difference = differences[name]
        for key in ("mean", "ci95", "simultaneous95"):
            line[f"difference_{key}"] = None if difference is None else getattr(difference, key)
        # The first is not compared with itself.
        line["difference_p"] = p_values[name] if name in corrected else None
        line["difference_p_holm"] = corrected.get(name)
    return summary


def paired_accuracies(rows: Sequence[Row], name: str, first: str) -> dict[int, tuple[float, float]]:
    """Accuracies in percent of two objectives, by seed, of the seeds that have runs of both.

    Example:
        >>> runs = [("a", 0, 90.0), ("b", 0, 89.0), ("a", 1, 91.0)]
        >>> rows = [dict(zip(("objective", "seed", "accuracy"), run)) for run in runs]
        >>> paired_accuracies(rows, "a", "b")
        {0: (90.0, 89.0)}
    """
    accuracy = {(row["objective"], row["seed"]): row["accuracy"] for row in rows}
    return {
        seed: (mine, accuracy[first, seed])
        for (objective, seed), mine in accuracy.items()
        if objective == name and (first, seed) in accuracy
    }


def _difference(
    rows: Sequence[Row], name: str, first: str, *, comparisons: int
) -> PairedDifference | None:
    """Difference in accuracy to the first objective; None if no seed has both."""
    pairs = paired_accuracies(rows, name, first)
    if not pairs:
        return None
    mine, firsts = zip(*pairs.values(), strict=True)
    return paired_difference(mine, firsts, comparisons=comparisons)


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
