"""What a study of search methods shows: a sentence, a table, and how good cells were when.

Shape suffixes: T epochs, S seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rich.table import Table

from selfexplain.report.style import LineStyle, method_styles
from selfexplain.report.tables import (
    latex_table,
    markdown_table,
    plain_table,
    starred_difference,
    survives,
    tests_said,
    whole_names,
    with_spread,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

KINDS = {"table": "in the table", "retrained": "after retraining"}
"""Accuracies that a study may have -> where a cell has them."""


# What was proven, in words.


def study_sentence(results: Row) -> str:
    """Which methods differ from the first, by how much; what cannot be said is not.

    Args:
        results: what `results.json` of a study holds.

    Example:
        >>> line = {"method": "lease", "budget": 5, "table": {"n": 3, "difference_mean": 0.6,
        ...         "difference_ci95": (0.4, 0.8), "difference_p": 0.01, "difference_p_holm": 0.01}}
        >>> first = {**line, "method": "darts2"}
        >>> study_sentence({"summary": [first, line]})
        'lease is 0.60 ± 0.20 points better than darts2 in the table (3 seeds).'
    """
    summary = results["summary"]
    where = dict(KINDS)
    if results.get("config", {}).get("retrain_found") == "best":
        where["retrained"] += " one cell each"
    said = [_verdict(summary, kind, where[kind]) for kind in KINDS if kind in summary[0]]
    text = " ".join(said)
    return text[0].upper() + text[1:] if text.startswith(("no ", "with ", "nothing ")) else text


def _verdict(summary: Sequence[Row], kind: str, where: str) -> str:
    """One sentence on one kind of accuracy."""
    first, n = summary[0]["method"], summary[0][kind]["n"]
    if len({line["method"] for line in summary}) == 1:
        return f"nothing is compared: {first} is the only method."
    if n < 2:
        return f"nothing is proven {where}: one seed has no spread; pass at least two --seeds."
    budgets = list(dict.fromkeys(line["budget"] for line in summary))
    parts = []
    for budget in budgets:
        _, *others = (line for line in summary if line["budget"] == budget)
        words = f"with {budget} epoch{'s' * (budget > 1)} " if len(budgets) > 1 else ""
        parts.append(words + _of_budget(others, first, kind))
    return f"{'; '.join(parts)} {where} ({n} seeds)."


def _of_budget(others: Sequence[Row], first: str, kind: str) -> str:
    proven = [line for line in others if survives(line[kind])]
    rest = [line["method"] for line in others if not survives(line[kind])]
    constant = _without_spread(others, kind)
    if not proven:
        whose = "" if len(rest) == 1 else f" of {_listed(rest)}"
        return f"no difference{whose} to {first} is proven{constant}"
    told = [f"{line['method']} is {_points(line[kind])} than {first}" for line in proven]
    if rest:
        told.append(f"no difference of {_listed(rest)} is proven{constant}")
    return ", ".join(told)


def _without_spread(others: Sequence[Row], kind: str) -> str:
    """What no t-test can judge: a difference that is the same with every seed."""
    same = [o for o in others if o[kind]["difference_p"] is None and o[kind]["difference_mean"]]
    if not same:
        return ""
    told = [f"{o['method']} {o[kind]['difference_mean']:+.2f}" for o in same]
    return f" (the same with every seed, which leaves a test no spread: {', '.join(told)} points)"


def _points(score: Row) -> str:
    mean, (low, high) = score["difference_mean"], score["difference_ci95"]
    word = "better" if mean > 0 else "worse"
    return f"{abs(mean):.2f} ± {(high - low) / 2:.2f} points {word}"


def _listed(names: Sequence[str]) -> str:
    *before, last = names
    return f"{', '.join(before)} or {last}" if before else last


# The table, for the terminal, for Markdown and for LaTeX.


def nas_study_table(results: Row) -> Table:
    """A row for each method and budget; 80 columns suffice, without what there is no room for.

    Args:
        results: what `results.json` of a study holds.
    """
    header, rows = nas_study_cells(results, short=True)
    table = plain_table(nas_study_caption(results, short=True), left=header[:1], right=header[1:])
    for cells in whole_names(header, rows):
        table.add_row(*cells)
    return table


def nas_study_markdown(results: Row) -> str:
    """The sentence, and the same table in Markdown, its caption below."""
    table = markdown_table(*nas_study_cells(results), nas_study_caption(results))
    return f"{results['sentence']}\n\n{table}"


def nas_study_latex(results: Row) -> str:
    """The same table in LaTeX, the sentence in its caption."""
    caption = nas_study_caption(results)
    whole = f"{results['sentence']} {caption[0].upper()}{caption[1:]}."
    return latex_table(*nas_study_cells(results), whole)


def nas_study_cells(results: Row, *, short: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and rows.

    Args:
        results: what `results.json` of a study holds.
        short: leave out how many different cells there are, the spread of the seconds and, where
            cells were both looked up and retrained, that of the accuracies.
    """
    summary = results["summary"]
    several = len({line["budget"] for line in summary}) > 1
    kinds = [kind for kind in KINDS if kind in summary[0]]
    header = ["method", *(["epochs"] if several else [])]
    for kind in kinds:
        header += [f"{kind} %", "difference"]
    counts = {"different_cells": "cells", "collapsed": "collapsed", "undecided": "undecided"}
    if short:
        del counts["different_cells"]
    header += [*counts.values(), "s"]
    rows = []
    for line in summary:
        cells = [line["method"], *([str(line["budget"])] if several else [])]
        for kind in kinds:
            score = line[kind]
            baseline = line["method"] == summary[0]["method"]
            spread = None if short and len(kinds) > 1 else score["std"]
            cells.append(with_spread(score["mean"], spread, 2))
            cells.append("" if baseline else starred_difference(dict(score)))
        cells += [str(line[count]) for count in counts]
        rows.append([*cells, _seconds(line["seconds"], spread=not short)])
    return header, rows


def _seconds(seconds: Row, *, spread: bool) -> str:
    mean, std = seconds["mean"], seconds["std"] if spread else None
    return "" if mean is None else with_spread(mean, std, 1 if mean < 100 else 0)


def nas_study_caption(results: Row, *, short: bool = False) -> str:
    """How the numbers of the table were made."""
    summary, config = results["summary"], results["config"]
    first, n = summary[0]["method"], summary[0]["n"]
    return "; ".join(
        [
            f"mean ± std over {n} seed{'s' * (n > 1)}",
            *_table_said(results),
            *_retraining_said(config),
            f"difference in points to {first}, same seeds"
            + (" and epochs" if len(config["budget"]) > 1 else "")
            + ", ± half of its 95 % interval",
            *(_tests(summary) if n > 1 else ["one seed has no spread, so nothing is tested"]),
            *([] if short else ["cells: how many different ones were found"]),
            "collapsed: cells of which more than half of the edges (darts: of the normal cell) are "
            "skip connections",
            "undecided: cells of searches in which, on more than half of the edges, the largest "
            f"weight ended below {config['undecided_below']:g} times uniform ones",
            "s: seconds of all steps of a search; other work on the machine, such as searches side "
            "by side, is in it",
        ]
    )


def _table_said(results: Row) -> list[str]:
    reference = results["reference"]
    if reference is None:
        return []
    return [
        f"table: test accuracy of the found cells in {PurePath(results['config']['table']).name}, "
        f"where the best of {reference['cells']} cells has {reference['best']:.2f} and a random "
        f"one {reference['mean']:.2f} on average{_noise_said(reference)}"
    ]


def _noise_said(reference: Row) -> str:
    if reference["seed_std"] is None:
        return ""
    return f" (std of one cell over its trainings there: {reference['seed_std']:.2f})"


def _retraining_said(config: Row) -> list[str]:
    if config["retrain"] is None:
        return []
    said = f"retrained: accuracy on the test images after {config['retrain']} epochs from scratch, "
    if config["retrain_found"] == "all":
        return [said + "the cell of each seed"]
    return [
        said
        + "of each method only the cell of the seed with the best validation accuracy, trained "
        "with each seed, so that the test is of these cells and not of the methods"
    ]


def _tests(summary: Sequence[Row]) -> list[str]:
    """What the tests say, of each kind of accuracy."""
    kinds = [kind for kind in KINDS if kind in summary[0]]
    said = []
    for kind in kinds:
        others = [dict(line[kind]) for line in summary if line["method"] != summary[0]["method"]]
        words = f"{kind}: " if len(kinds) > 1 else ""
        said += [words + told for told in tests_said(others)]
    return said


# How good the current cell was after every epoch.


def anytime_figure(results: Row) -> Figure:
    """Mean accuracy in the table of the cell at every epoch, by method; a panel for each budget.

    The band is the standard deviation over seeds; a diamond marks the cells that the searches ended
    with, where these are not those of the last epoch. Dashed: the best cell of the table; dotted:
    the mean of all.

    Args:
        results: what `results.json` of a study holds, with look-ups.

    Example:
        >>> row = {"method": "lease", "budget": 2, "seed": 0, "curve": [50.0, 60.0], "table": 60.0}
        >>> reference = {"cells": 125, "best": 62.0, "mean": 48.0}
        >>> drawn = anytime_figure({"rows": [row], "reference": reference})
        >>> [line.get_label() for line in drawn.axes[0].lines][0]
        'lease'
    """
    from matplotlib.figure import Figure  # a refusal does not wait for it
    from matplotlib.ticker import MaxNLocator

    rows = results["rows"]
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    figure = Figure(figsize=(max(4.3, 2.9 * len(budgets)), 3.8), layout="constrained")
    panels = figure.subplots(1, len(budgets), squeeze=False, sharey=True)[0]
    styles = method_styles(list(dict.fromkeys(row["method"] for row in rows)))
    for axes, budget in zip(panels, budgets, strict=True):
        for method, mine in _by_method(rows, budget):
            _draw_method(axes, styles[method], method, mine)
        for level, style in (("best", "--"), ("mean", ":")):
            axes.axhline(results["reference"][level], color="black", linewidth=0.8, linestyle=style)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        if len(budgets) > 1:
            axes.set_title(f"{budget} epochs", fontsize=9)
    panels[0].set_ylabel("accuracy in the table, %")
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower left", ncols=2, fontsize=8, frameon=False)
    return figure


def _draw_method(axes: Axes, style: LineStyle, method: str, rows: Sequence[Row]) -> None:
    colour, dashes = style
    curves_TS = list(zip(*(row["curve"] for row in rows), strict=True))
    means = [statistics.fmean(values) for values in curves_TS]
    stds = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in curves_TS]
    epochs = range(1, len(means) + 1)
    [line] = axes.plot(epochs, means, color=colour, label=method, linewidth=1.5, marker=".")
    if dashes:
        line.set_dashes(dashes)
    low = [m - s for m, s in zip(means, stds, strict=True)]
    high = [m + s for m, s in zip(means, stds, strict=True)]
    axes.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)
    final = statistics.fmean(row["table"] for row in rows)
    if abs(final - means[-1]) > 1e-9:
        axes.plot([len(means)], [final], marker="D", color=colour, markersize=5)


def _by_method(rows: Sequence[Row], budget: int) -> Iterator[tuple[str, list[Row]]]:
    for method in dict.fromkeys(row["method"] for row in rows):
        yield method, [r for r in rows if (r["method"], r["budget"]) == (method, budget)]
