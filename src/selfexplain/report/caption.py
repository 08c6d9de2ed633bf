"""What stands below the table of a comparison: how its numbers were made."""

from collections import Counter
from typing import Any

Row = dict[str, Any]

LEVEL = 0.05
MOST_NAMED = 4
"""So many missing runs are named one by one."""


def survives(row: Row) -> bool:
    """Whether a difference is significant after Holm's correction.

    Example:
        >>> survives({"difference_p_holm": 0.01}), survives({"difference_p_holm": None})
        (True, False)
    """
    p = row.get("difference_p_holm")
    return p is not None and p < LEVEL


def caption(results: dict[str, Any]) -> str:
    """The caption of a comparison's table.

    Args:
        results: what `results.json` holds.

    Example:
        >>> caption({"summary": [{"objective": "standard", "n": 1}]})[:20]
        'mean ± std over 1 se'
    """
    summary = results["summary"]
    n = summary[0]["n"]
    parts = [
        *unfinished(results),
        f"mean ± std over {n} seed{'s' if n > 1 else ''}",
        f"difference in accuracy to {summary[0]['objective']}, same seeds, ± half of its 95 % "
        "interval",
        *_tests(summary[1:]),
        *(
            ["corrupted: mean accuracy, in %, under noise, blur and contrast"]
            if "corrupted_accuracy_mean" in summary[0]
            else []
        ),
        "cost in steps of the standard one",
        *_total(results),
        *_tuning(results.get("config", {}).get("tuning")),
    ]
    return "; ".join(parts)


def unfinished(results: dict[str, Any]) -> list[str]:
    """Which runs an unfinished comparison lacks; where many lack, how many of each objective.

    Args:
        results: what `results.json` or `study.json` holds.

    Example:
        >>> unfinished({"config": {"unfinished": ["kd with seed 1"]}})
        ['UNFINISHED: one run is missing (kd with seed 1)']
        >>> unfinished({"config": {}})
        []
    """
    missing = results.get("config", {}).get("unfinished")
    if not missing:
        return []
    lacking = Counter(name.rpartition(" with seed ")[0] for name in missing)
    told = missing if len(missing) <= MOST_NAMED else [f"{c} of {o}" for o, c in lacking.items()]
    runs = "one run is" if len(missing) == 1 else f"{len(missing)} runs are"
    return [f"UNFINISHED: {runs} missing ({', '.join(told)})"]


def _total(results: dict[str, Any]) -> list[str]:
    """What the column of total costs counts, where there is one."""
    if "total_cost" not in results["summary"][0]:
        return []
    given = results.get("config", {}).get("teacher") is not None
    free = ", that of the given teacher counted as 0" if given else ""
    return [f"total: with the training of its teachers{free}"]


def _tests(others: list[Row]) -> list[str]:
    """Which differences are more than chance, if that was asked of more than one seed."""
    if not others or all(row.get("difference_p") is None for row in others):
        return []
    test = f"p < {LEVEL:g} in a paired t-test, after Holm's correction for {len(others)} comparison"
    test += "s" if len(others) > 1 else ""
    return [f"starred: {test}" if any(map(survives, others)) else f"no difference has {test}"]


def _tuning(tuning: dict[str, Any] | None) -> list[str]:
    """How often and on what the options were tried, and which were chosen."""
    if tuning is None:
        return []
    tried = [each for each in tuning["objectives"] if each["trials"]]
    untried = [each["objective"] for each in tuning["objectives"] if not each["trials"]]
    chosen = [_choice(each) for each in tried]
    return [
        f"options: the best of {tuning['trials']} trials each ({tuning['tuner']} search) by "
        f"accuracy on {100 * tuning['validation']:g} % of the training images, held out: "
        + ", ".join(chosen),
        *([f"nothing to tune: {', '.join(untried)}"] if untried else []),
    ]


def _choice(tuned: Row) -> str:
    if tuned["chosen"] == tuned["objective"]:
        return f"{tuned['objective']} as it was given"
    return str(tuned["chosen"])
