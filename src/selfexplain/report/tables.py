"""The tables for the terminal, Markdown and LaTeX: comparisons, explanation metrics, searches."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

from rich import box
from rich.table import Table

# What every table has in common: its look in the terminal, its lines in Markdown.


def plain_table(caption: str, *, left: Sequence[str], right: Sequence[str]) -> Table:
    """A table without rows for the terminal, its caption below.

    Args:
        caption: how its numbers were made.
        left: headings of the first columns, whose words may be folded.
        right: headings of the others, whose numbers are kept whole.

    Example:
        >>> [str(column.header) for column in plain_table("", left=["a"], right=["b"]).columns]
        ['a', 'b']
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        caption=caption,
        caption_justify="left",
    )
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


TERMINAL = 80
"""Columns that the tables for the terminal are made for."""


def whole_names(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows whose first cell is broken where a name may be, so that the table fits 80 columns.

    Names with options are long; the terminal would cut them anywhere.

    Args:
        header: headings of all columns.
        rows: their cells; the first is a name.

    Example:
        >>> rows = [["kd:alpha=0.1,temperature=4", 64 * "x"]]
        >>> whole_names(["objective", "n"], rows)[0][0].splitlines()
        ['kd:alpha=0.1,', 'temperature=4']
    """
    room = room_for_names(header, rows)
    return [[broken_name(name, room), *cells] for name, *cells in rows]


def room_for_names(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """How many characters of a line of the terminal the columns after the first leave."""
    others = [max(map(len, column)) + 2 for column in zip(header, *rows, strict=True)][1:]
    return TERMINAL - 1 - sum(others)


PIECE = re.compile(r"[^:,+]*[:,+]|[^:,+]+")
"""What of a name with options stays together."""


def pieces(rows: Sequence[Sequence[str]]) -> list[str]:
    """The pieces of the names of all rows."""
    return [piece for name, *_ in rows for piece in PIECE.findall(name)]


def broken_name(name: str, width: int) -> str:
    """A name in lines of at most this width, broken after its separators alone.

    Example:
        >>> broken_name("mixup+introspective:weight=0.1", 22).splitlines()
        ['mixup+introspective:', 'weight=0.1']
    """
    lines = [""]
    for piece in PIECE.findall(name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """The same in Markdown: the first column left, the others right.

    Example:
        >>> print(markdown_table(["a", "b"], [["one", "1"]], "numbers"), end="")
        | a | b |
        | --- | ---: |
        | one | 1 |
        <BLANKLINE>
        *numbers*
    """
    whole = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    lines = [f"| {' | '.join(cells)} |" for cells in whole]
    return "\n".join([*lines, "", f"*{caption}*", ""])


def latex_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    r"""The same in LaTeX, ruled by the package booktabs.

    Example:
        >>> print(latex_table(["a", "b %"], [["one_1", "1 ± 2"]], "numbers"), end="")
        % \usepackage{booktabs}
        \begin{table}
          \centering
          \caption{numbers}
          \begin{tabular}{lr}
            \toprule
            a & b \% \\
            \midrule
            one\_1 & 1 $\pm$ 2 \\
            \bottomrule
          \end{tabular}
        \end{table}
    """
    head, *body = (" & ".join(map(latex_text, cells)) + r" \\" for cells in (header, *rows))
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_text(caption)}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        *(f"    {line}" for line in (r"\toprule", head, r"\midrule", *body, r"\bottomrule")),
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": r"\textbar{}",
        "±": r"$\pm$",
    }
)
"""What LaTeX would take for its own."""


def latex_text(text: str) -> str:
    r"""A text such that LaTeX prints its characters; minus signs before digits are minus signs.

    Example:
        >>> print(latex_text("a_b -0.5 ± 1 %"))
        a\_b $-$0.5 $\pm$ 1 \%
    """
    text = re.sub(r"(?<![\w-])-(?=\d)", "\0", text.replace("\0", ""))
    return text.translate(_LATEX).replace("--", "-{}-").replace("\0", "$-$")


# What stands below the table of a comparison: how its numbers were made.


Row = dict[str, Any]

LEVEL = 0.05
WIDEST = 0.03
"""Interval of a cost, as a fraction of the cost, from which on it is known well enough."""
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


def caption(results: dict[str, Any], *, cost_spread: bool = True) -> str:
    """The caption of a comparison's table.

    Args:
        results: what `results.json` holds.
        cost_spread: whether the costs have their spread.

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
        *tests_said(summary[1:]),
        *(
            ["corrupted: mean accuracy, in %, under noise, blur and contrast"]
            if "corrupted_accuracy_mean" in summary[0]
            else []
        ),
        *_costs(summary, spread=cost_spread),
        *_total(results),
        *_tuning(results.get("config", {}).get("tuning")),
    ]
    return "; ".join(parts)


def unfinished(results: Mapping[str, Any]) -> list[str]:
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


def _costs(summary: Sequence[Row], *, spread: bool) -> list[str]:
    """What the column of costs counts; they are timed after the runs, so some may be unknown."""
    timed = [row for row in summary if "cost" in row]
    if not timed:
        return ["costs are not timed yet"]
    empty = "" if len(timed) == len(summary) else ", where it has been timed"
    said = [f"cost in steps of the standard one{empty}"]
    if spread and any("cost_ci95" in row for row in timed):
        said.append("its ± is half of the 95 % interval of the timing")
    wide = [row["objective"] for row in timed if is_wide(row, "cost")]
    return [*said, *([f"cost known to no better than 3 %: {', '.join(wide)}"] if wide else [])]


def is_wide(row: Row, name: str) -> bool:
    """Whether the interval of a cost is wider than 3 % of it.

    Example:
        >>> is_wide({"cost": 2.0, "cost_ci95": (1.9, 2.1)}, "cost"), is_wide({"cost": 2.0}, "cost")
        (True, False)
    """
    interval = row.get(f"{name}_ci95")
    return interval is not None and interval[1] - interval[0] > WIDEST * row[name]


def _total(results: dict[str, Any]) -> list[str]:
    """What the column of total costs counts, where there is one."""
    if not any("total_cost" in row for row in results["summary"]):
        return []
    given = results.get("config", {}).get("teacher") is not None
    free = ", that of the given teacher counted as 0" if given else ""
    return [f"total: with the training of its teachers{free}"]


def tests_said(others: Sequence[Row]) -> list[str]:
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


# The table of a comparison, for the terminal and for a file.


def comparison_table(results: dict[str, Any]) -> Table:
    """Accuracy, paired difference, NLL, ECE and cost of each objective; 80 columns suffice.

    NLL and ECE stand without their spread where there is no room for it: with accuracy under
    corruptions, and where an option in a name is long.

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
    short = "corrupted_accuracy_mean" in summary[0]
    header, cells = _terminal_cells(summary, short=short)
    if not short and any(len(piece) > room_for_names(header, cells) for piece in pieces(cells)):
        header, cells = _terminal_cells(summary, short=True)
    first, *others = header
    table = plain_table(caption(results, cost_spread=False), left=[first], right=others)
    for line in whole_names(header, cells):
        table.add_row(*line)
    return table


def _terminal_cells(summary: list[Row], *, short: bool) -> tuple[list[str], list[list[str]]]:
    columns = _columns(summary, short=short, cost_spread=False)
    return list(columns), [[cell(row) for cell in columns.values()] for row in summary]


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
    columns = _columns(results["summary"], short=False, cost_spread=True)
    rows = [[cell(row) for cell in columns.values()] for row in results["summary"]]
    return list(columns), rows


def _columns(
    summary: list[Row], *, short: bool, cost_spread: bool
) -> dict[str, Callable[[Row], str]]:
    """Heading -> what stands below it for a row."""

    def score(name: str, digits: int, *, spread: bool = True) -> Callable[[Row], str]:
        return lambda row: with_spread(
            row[f"{name}_mean"], row[f"{name}_std"] if spread else None, digits
        )

    columns = {
        "objective": lambda row: str(row["objective"]),
        "accuracy %": score("accuracy", 2),
        "difference": lambda row: "" if row is summary[0] else starred_difference(row),
        "NLL": score("nll", 3, spread=not short),
        "ECE %": score("ece", 1, spread=not short),
    }
    if "corrupted_accuracy_mean" in summary[0]:
        columns["corrupted"] = score("corrupted_accuracy", 1)
    columns["cost"] = partial(_cost, "cost", cost_spread)
    if any("total_cost" in row for row in summary):
        columns["total"] = partial(_cost, "total_cost", False)
    return columns


def _cost(name: str, spread: bool, row: Row) -> str:
    if name not in row:
        return ""
    low, high = row.get(f"{name}_ci95") or (0.0, 0.0)
    return with_spread(row[name], (high - low) / 2 if spread and low < high else None, 2)


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


def starred_difference(row: Row) -> str:
    """The paired difference, half of its interval, and a star if it survives the correction."""
    if row["difference_mean"] is None:
        return "unknown"
    text = with_interval(row["difference_mean"], row["difference_ci95"], 2)
    return text + ("*" if survives(row) else "")


# The table of evaluated explanations, for the terminal.


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
            table.add_row(*cells, names[row["run"]], value, _quality_difference(difference))
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


def _quality_difference(row: dict[str, Any] | None) -> str:
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
