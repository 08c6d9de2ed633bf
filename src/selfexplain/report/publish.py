r"""Tables for papers: the best in bold by the test, intervals, footnotes.

A table is made of blocks, one for each comparison, with a row for each run, as in `results.json`.
Within a block the runs are paired by their seeds, and nothing is tested across blocks.
"""

from __future__ import annotations

import csv
import difflib
import html
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from selfexplain.errors import InputError
from selfexplain.evaluation import PairedDifference, holm, paired_difference
from selfexplain.report.tables import LEVEL, WIDEST, latex_text

TableFormat = Literal["markdown", "latex", "csv", "html"]
Spread = Literal["std", "interval"]
Row = Mapping[str, Any]


# The columns that a table may have.


@dataclass(frozen=True, slots=True)
class Score:
    """A number that every run has."""

    heading: str
    digits: int
    better: Literal["higher", "lower"]


SCORES = {
    "accuracy": Score("accuracy %", 2, "higher"),
    "nll": Score("NLL", 3, "lower"),
    "brier": Score("Brier", 3, "lower"),
    "ece": Score("ECE %", 1, "lower"),
    "adaptive_ece": Score("adaptive ECE %", 1, "lower"),
    "aurc": Score("AURC %", 2, "lower"),
    "excess_aurc": Score("excess AURC %", 2, "lower"),
    "nll_scaled": Score("scaled NLL", 3, "lower"),
    "ece_scaled": Score("scaled ECE %", 1, "lower"),
    "corrupted_accuracy": Score("corrupted %", 1, "higher"),
}
"""Column of a mean over seeds -> how it is shown."""
COSTS = {"cost": "cost", "total_cost": "total cost"}
DIFFERENCES = {
    ("difference" if name == "accuracy" else f"{name}_difference"): name for name in SCORES
}
"""Column of paired differences to the first objective -> the score that is compared."""
COLUMNS = (*SCORES, *DIFFERENCES, "p", "n", *COSTS)
DEFAULT_COLUMNS = ("accuracy", "difference", "nll", "ece", "cost")
"""Without --columns; costs only where they were timed."""


def check_columns(columns: Sequence[str], known: Sequence[str] = COLUMNS) -> None:
    """Raise InputError for a column that does not exist, or that is named twice.

    Example:
        >>> check_columns(["acuracy"])
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no column 'acuracy' (did you mean accuracy?); ...
    """
    for name in columns:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(f"there is no column {name!r}{meant}; pass some of {', '.join(known)}")
    if len(set(columns)) < len(columns):
        raise InputError("columns names one twice; pass each once")


# What the seeds say: means, paired differences, and which are not worse than the best.


@dataclass(frozen=True, slots=True)
class Difference:
    """The paired difference of an objective to another, and its corrected p-value."""

    paired: PairedDifference
    p_holm: float | None

    @property
    def survives(self) -> bool:
        """Whether it is significant after Holm's correction."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True, slots=True)
class Block:
    """The runs of one comparison.

    Args:
        rows: one for each run: objective, seed and scores, as in `results.json`.
        title: stands above the rows where there are several blocks.
        notes: what must be said of it, such as that it is unfinished.

    Example:
        >>> rows = [{"objective": "standard", "seed": s, "accuracy": 90.0 + s} for s in (0, 1)]
        >>> Block(rows).mean("standard", "accuracy")
        90.5
    """

    rows: Sequence[Row]
    title: str = ""
    notes: Sequence[str] = ()

    @property
    def objectives(self) -> list[str]:
        """In their order; the first is what the others are compared with."""
        return list(dict.fromkeys(row["objective"] for row in self.rows))

    def values(self, objective: str, name: str) -> dict[int, float]:
        """Seed -> the number, of the seeds that have it."""
        return {
            row["seed"]: row[name]
            for row in self.rows
            if row["objective"] == objective and name in row
        }

    def has(self, name: str) -> bool:
        """Whether any run has this number."""
        return any(name in row for row in self.rows)

    def mean(self, objective: str, name: str) -> float | None:
        """Over the seeds; None if no run has it."""
        values = self.values(objective, name).values()
        return statistics.fmean(values) if values else None

    def differences(self, name: str, to: str | None = None) -> dict[str, Difference | None]:
        """Of every other objective to one, the first if it is None; None where no seed is shared.

        Holm's correction is for all of them.
        """
        to = self.objectives[0] if to is None else to
        others = [objective for objective in self.objectives if objective != to]
        base = self.values(to, name)
        found: dict[str, PairedDifference | None] = {}
        for objective in others:
            mine = self.values(objective, name)
            seeds = [seed for seed in mine if seed in base]
            found[objective] = (
                paired_difference(
                    [mine[seed] for seed in seeds],
                    [base[seed] for seed in seeds],
                    comparisons=len(others),
                )
                if seeds
                else None
            )
        corrected = holm([None if d is None else d.p_value for d in found.values()])
        return {
            objective: None if d is None else Difference(d, p)
            for (objective, d), p in zip(found.items(), corrected, strict=True)
        }

    def not_worse(self, name: str) -> set[str]:
        """The objectives that the paired test does not find worse than the best mean of a score.

        Empty if there are not two seeds that could be tested. One whose differences to the best
        cannot be tested, since they are the same with every seed, counts as worse if they are.
        """
        means = {o: m for o in self.objectives if (m := self.mean(o, name)) is not None}
        if len(means) < 2 or max(len(self.values(o, name)) for o in means) < 2:
            return set()
        sign = 1 if SCORES[name].better == "higher" else -1
        best = max(means, key=lambda objective: sign * means[objective])
        against = self.differences(name, best)
        return {best} | {o for o in means if o != best and _holds_up(against[o], sign)}


def _holds_up(difference: Difference | None, sign: int) -> bool:
    """Whether an objective is not shown to be worse than the best, over at least two seeds."""
    if difference is None or difference.paired.ci95 is None:
        return False
    if sign * difference.paired.mean >= 0:
        return True
    if difference.p_holm is None:  # the same loss with every seed
        return False
    return not difference.survives


# A table before it has a format.


@dataclass(frozen=True, slots=True)
class Cell:
    """A text whose beginning may be bold, with the footnotes that belong to it."""

    text: str
    rest: str = ""
    bold: bool = False
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Grid:
    """Headings, groups of rows, what stands below them, and footnotes."""

    header: Sequence[str]
    groups: list[tuple[str, list[list[Cell]]]]
    caption: str
    notes: list[str] = field(default_factory=list)

    def mark(self, note: str) -> str:
        """The letter of a footnote, the same for the same words."""
        if note not in self.notes:
            self.notes.append(note)
        return chr(ord("a") + self.notes.index(note) % 26)


def table(
    blocks: Sequence[Block],
    format: TableFormat = "markdown",  # noqa: A002 - as the command's option
    columns: Sequence[str] = (),
    spread: Spread = "std",
) -> str:
    r"""The table of one or several comparisons, for a paper or a page.

    In bold: the best mean of a column, and all that a paired t-test over the same seeds, after
    Holm's correction, does not find worse. With one seed nothing is tested, and nothing is bold.

    Args:
        blocks: the comparisons; each is tested by itself.
        format: markdown, latex (with the package booktabs), csv (numbers, for programs) or html.
        columns: some of `COLUMNS`; empty for `DEFAULT_COLUMNS`.
        spread: what follows a mean: the standard deviation over seeds, or half of the mean's 95 %
            interval.

    Raises:
        InputError: a column does not exist, or no run has it.

    Example:
        >>> rows = [{"objective": o, "seed": s, "accuracy": a + s % 2 / 10}
        ...         for o, a in (("standard", 90.0), ("kd", 92.0)) for s in range(4)]
        >>> print(table([Block(rows)], columns=["accuracy"]).splitlines()[3])
        | kd | **92.05** ± 0.06 |
    """
    chosen = _chosen(blocks, columns)
    if format == "csv":
        return _csv(blocks, chosen)
    return render(_grid(blocks, chosen, spread), format)


def render(grid: Grid, format: TableFormat) -> str:  # noqa: A002 - as above
    """A grid in a format; of csv only the texts."""
    if format == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(grid.header)
        writer.writerows(
            [c.text + c.rest for c in cells] for _, rows in grid.groups for cells in rows
        )
        return out.getvalue()
    return {"markdown": _markdown, "latex": _latex, "html": _html}[format](grid)


def _chosen(blocks: Sequence[Block], columns: Sequence[str]) -> list[str]:
    """The columns of a table, those that no run has refused or left out."""
    check_columns(columns)
    if not columns:
        return [name for name in DEFAULT_COLUMNS if any(_known(block, name) for block in blocks)]
    for name in columns:
        if not any(_known(block, name) for block in blocks):
            there = [c for c in COLUMNS if any(_known(block, c) for block in blocks)]
            raise InputError(f"no run has {name}; pass some of {', '.join(there)}")
    return list(columns)


def _known(block: Block, name: str) -> bool:
    if name in ("p", "n"):
        return True
    return block.has(DIFFERENCES.get(name, name))


def _grid(blocks: Sequence[Block], columns: Sequence[str], spread: Spread) -> Grid:
    header = ["objective", *(_heading(name) for name in columns)]
    grid = Grid(header, [], _caption(blocks, columns, spread))
    for block in blocks:
        filled = [_column(block, name, spread, grid) for name in columns]
        most = max(_seeds(block, objective) for objective in block.objectives)
        rows = []
        for objective in block.objectives:
            n = _seeds(block, objective)
            notes = (grid.mark(f"over {n} seed{'s' * (n != 1)} only"),) if n < most else ()
            name = Cell(objective, notes=notes)
            rows.append([name, *(column[objective] for column in filled)])
        title = block.title
        if block.notes and len(blocks) > 1:
            title += f" ({'; '.join(block.notes)})"
        grid.groups.append((title, rows))
    return grid


def _seeds(block: Block, objective: str) -> int:
    return sum(row["objective"] == objective for row in block.rows)


def _heading(name: str) -> str:
    if name in SCORES:
        return SCORES[name].heading
    if name in DIFFERENCES:
        score = DIFFERENCES[name]
        return "difference" if score == "accuracy" else f"{SCORES[score].heading} difference"
    return COSTS.get(name, name)


def _column(block: Block, name: str, spread: Spread, grid: Grid) -> dict[str, Cell]:
    """Objective -> its cell."""
    if name in SCORES:
        best = block.not_worse(name)
        return {o: _score_cell(block, o, name, spread, o in best) for o in block.objectives}
    if name in DIFFERENCES:
        return _difference_cells(block, DIFFERENCES[name], grid)
    if name == "p":
        return _p_cells(block)
    if name == "n":
        return {o: Cell(str(_seeds(block, o))) for o in block.objectives}
    return {o: _cost_cell(block, o, name, grid) for o in block.objectives}


def _score_cell(block: Block, objective: str, name: str, spread: Spread, bold: bool) -> Cell:
    values = list(block.values(objective, name).values())
    if not values:
        return Cell("")
    digits = SCORES[name].digits
    half = _half(values, spread)
    rest = "" if half is None else f" ± {half:.{digits}f}"
    return Cell(f"{statistics.fmean(values):.{digits}f}", rest, bold)


def _half(values: Sequence[float], spread: Spread) -> float | None:
    """What stands behind a mean's ±; None for one value."""
    if len(values) < 2:
        return None
    if spread == "std":
        return statistics.stdev(values)
    low, high = _interval(values)
    return (high - low) / 2


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean, by Student's t."""
    interval = paired_difference(values, [0.0] * len(values)).ci95
    assert interval is not None, "there are two values"
    return interval


def _difference_cells(block: Block, score: str, grid: Grid) -> dict[str, Cell]:
    cells = {block.objectives[0]: Cell("")}
    digits = SCORES[score].digits
    for objective, difference in block.differences(score).items():
        if difference is None:
            note = grid.mark(f"no seed in common with {block.objectives[0]}")
            cells[objective] = Cell("unknown", notes=(note,))
            continue
        interval = difference.paired.ci95
        text = f"{difference.paired.mean:+.{digits}f}"
        rest = "" if interval is None else " [{:+.{d}f}, {:+.{d}f}]".format(*interval, d=digits)
        notes: tuple[str, ...] = ()
        if interval is not None and difference.paired.p_value is None:
            notes = (grid.mark("the same with every seed, which leaves a test no spread"),)
        cells[objective] = Cell(text, rest + "*" * difference.survives, notes=notes)
    return cells


def _p_cells(block: Block) -> dict[str, Cell]:
    cells = {block.objectives[0]: Cell("")}
    for objective, difference in block.differences("accuracy").items():
        p = None if difference is None else difference.p_holm
        cells[objective] = Cell("" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001")
    return cells


def _cost_cell(block: Block, objective: str, name: str, grid: Grid) -> Cell:
    cost = block.mean(objective, name)
    if cost is None:
        return Cell("")
    ends = [
        row[f"{name}_ci95"]
        for row in block.rows
        if row["objective"] == objective and row.get(f"{name}_ci95") is not None
    ]
    if not ends:
        return Cell(f"{cost:.2f}")
    width = statistics.fmean(high - low for low, high in ends)
    if width == 0:  # the standard one, which is measured in itself
        return Cell(f"{cost:.2f}")
    notes: tuple[str, ...] = ()
    if width > WIDEST * cost:
        notes = (grid.mark(f"its interval is wider than {WIDEST:.0%} of it"),)
    return Cell(f"{cost:.2f}", f" ± {width / 2:.2f}", notes=notes)


def _caption(blocks: Sequence[Block], columns: Sequence[str], spread: Spread) -> str:
    """How the numbers were made."""
    alone = [note for block in blocks for note in block.notes] if len(blocks) == 1 else []
    scores = [name for name in columns if name in SCORES]
    said = [*alone, *_means_said(blocks, spread if scores else None)]
    tested = _most_seeds(blocks) > 1
    if scores and tested:
        said.append(
            "bold: the best mean of a column, and all that a paired t-test over the same seeds "
            f"does not find worse (p < {LEVEL:g} after Holm's correction for the column)"
        )
    elif scores:
        said.append("one seed: nothing is tested, so nothing is bold")
    if any(name in DIFFERENCES for name in columns):
        said += _differences_said(blocks, tested)
    if "p" in columns:
        said.append("p: of the difference in accuracy, after Holm's correction")
    said += _costs_said(blocks, columns)
    return "; ".join(said)


def _most_seeds(blocks: Sequence[Block]) -> int:
    return max(_seeds(block, objective) for block in blocks for objective in block.objectives)


def _means_said(blocks: Sequence[Block], spread: Spread | None) -> list[str]:
    if spread is None:
        return []
    counts = {max(_seeds(block, o) for o in block.objectives) for block in blocks}
    low, high = min(counts), max(counts)
    if high == 1:
        return ["1 seed"]
    what = "std" if spread == "std" else "half of the mean's 95 % interval"
    return [f"mean ± {what} over {high if low == high else f'{low} to {high}'} seeds"]


def _differences_said(blocks: Sequence[Block], tested: bool) -> list[str]:
    firsts = list(dict.fromkeys(block.objectives[0] for block in blocks))
    to = firsts[0] if len(firsts) == 1 else "the first objective"
    if not tested:
        return [f"difference to {to}, same seeds"]
    return [
        f"difference to {to}, same seeds, with its 95 % interval",
        f"*: p < {LEVEL:g} in a paired t-test after Holm's correction",
    ]


def _costs_said(blocks: Sequence[Block], columns: Sequence[str]) -> list[str]:
    costs = [name for name in columns if name in COSTS]
    said = ["cost in steps of the standard one"] if costs else []
    if "total_cost" in costs:
        said.append("total cost: with the training of its teachers")
    if not costs:
        return []
    if any(block.has(f"{name}_ci95") for block in blocks for name in costs):
        return [*said, "its ± is half of the 95 % interval of the timing"]
    return [*said, "the spread of the timing was not kept"]


# The formats.


def _noted(cell: Cell, before: str, after: str) -> str:
    return f"{before}{','.join(cell.notes)}{after}" if cell.notes else ""


def _lettered(grid: Grid) -> Iterator[tuple[str, str]]:
    return ((grid.mark(note), note) for note in list(grid.notes))


def _markdown(grid: Grid) -> str:
    def cell(c: Cell) -> str:
        text = c.text.replace("|", "\\|")
        rest = c.rest.replace("*", "\\*")
        return (f"**{text}**" if c.bold else text) + rest + _noted(c, "<sup>", "</sup>")

    lines = [
        f"| {' | '.join(grid.header)} |",
        f"| {' | '.join(('---', *['---:'] * (len(grid.header) - 1)))} |",
    ]
    for title, rows in grid.groups:
        if len(grid.groups) > 1:
            lines.append(f"| *{title}* |{' |' * (len(grid.header) - 1)}")
        lines += [f"| {' | '.join(map(cell, cells))} |" for cells in rows]
    lines += ["", "*" + grid.caption.replace("*", "\\*") + "*", ""]
    lines += [f"<sup>{letter}</sup> {note}  " for letter, note in _lettered(grid)]
    return "\n".join(lines).rstrip() + "\n"


def _latex(grid: Grid) -> str:
    def cell(c: Cell) -> str:
        text = latex_text(c.text)
        marks = _noted(c, r"\textsuperscript{", "}")
        return (rf"\textbf{{{text}}}" if c.bold else text) + latex_text(c.rest) + marks

    def line(texts: Sequence[str]) -> str:
        # A bracket or a star after \\ would be taken for its argument.
        guard = "{}" if texts[0][:1] in ("[", "*") else ""
        return f"    {guard}{' & '.join(texts)} \\\\"

    width = len(grid.header)
    body = []
    for title, rows in grid.groups:
        body.append(r"    \midrule")
        if len(grid.groups) > 1:
            body.append(line([rf"\multicolumn{{{width}}}{{l}}{{\textit{{{latex_text(title)}}}}}"]))
        body += [line([*map(cell, cells)]) for cells in rows]
    notes = [
        rf"\textsuperscript{{{letter}}} {latex_text(note)}." for letter, note in _lettered(grid)
    ]
    caption = grid.caption[:1].upper() + grid.caption[1:]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_text(caption)}.}}",
            rf"  \begin{{tabular}}{{l{'r' * (width - 1)}}}",
            r"    \toprule",
            line([*map(latex_text, grid.header)]),
            *body,
            r"    \bottomrule",
            r"  \end{tabular}",
            *([rf"  \par\smallskip{{\footnotesize {' '.join(notes)}\par}}"] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def _html(grid: Grid) -> str:
    def cell(c: Cell) -> str:
        text = html.escape(c.text)
        marks = _noted(c, "<sup>", "</sup>")
        return (f"<b>{text}</b>" if c.bold else text) + html.escape(c.rest) + marks

    width = len(grid.header)
    lines = ["<table>", f"  <caption>{html.escape(grid.caption)}</caption>", "  <thead>"]
    headings = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in grid.header)
    lines += [f"    <tr>{headings}</tr>", "  </thead>"]
    for title, rows in grid.groups:
        lines.append("  <tbody>")
        if len(grid.groups) > 1:
            said = html.escape(title)
            lines.append(f'    <tr><th scope="rowgroup" colspan="{width}">{said}</th></tr>')
        for first, *others in rows:
            numbers = "".join(f"<td>{cell(c)}</td>" for c in others)
            lines.append(f'    <tr><th scope="row">{cell(first)}</th>{numbers}</tr>')
        lines.append("  </tbody>")
    if grid.notes:
        said = "<br>".join(f"<sup>{a}</sup> {html.escape(note)}" for a, note in _lettered(grid))
        lines.append(f'  <tfoot><tr><td colspan="{width}">{said}</td></tr></tfoot>')
    return "\n".join([*lines, "</table>", ""])


def _csv(blocks: Sequence[Block], columns: Sequence[str]) -> str:
    """Numbers in full, in columns of their own: mean, std, ends of intervals, p-values."""
    lines = [
        {"comparison": block.title, "objective": objective, "n": _seeds(block, objective)}
        for block in blocks
        for objective in block.objectives
    ]
    places = iter(lines)
    for block in blocks:
        numbers = {name: _numbers(block, name) for name in columns if name != "n"}
        for objective in block.objectives:
            line = next(places)
            for found in numbers.values():
                line |= found[objective]
    header = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _numbers(block: Block, name: str) -> dict[str, dict[str, Any]]:
    """Objective -> what a program may want of a column."""
    if name in SCORES:
        best = block.not_worse(name)
        return {o: _score_numbers(block, o, name, o in best) for o in block.objectives}
    if name in COSTS:
        return {o: _cost_numbers(block, o, name) for o in block.objectives}
    score = DIFFERENCES.get(name, "accuracy")
    none = {objective: {name: ""} for objective in block.objectives}
    found = block.differences(score)
    return none | {o: _difference_numbers(d, name) for o, d in found.items()}


def _score_numbers(block: Block, objective: str, name: str, bold: bool) -> dict[str, Any]:
    values = list(block.values(objective, name).values())
    if not values:
        return {f"{name}_mean": ""}
    several = len(values) > 1
    low, high = _interval(values) if several else ("", "")
    return {
        f"{name}_mean": statistics.fmean(values),
        f"{name}_std": statistics.stdev(values) if several else "",
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_not_worse": int(bold),
    }


def _cost_numbers(block: Block, objective: str, name: str) -> dict[str, Any]:
    ends = [
        row[f"{name}_ci95"]
        for row in block.rows
        if row["objective"] == objective and row.get(f"{name}_ci95") is not None
    ]
    low, high = (statistics.fmean(end) for end in zip(*ends, strict=True)) if ends else ("", "")
    cost = block.mean(objective, name)
    return {name: "" if cost is None else cost, f"{name}_low": low, f"{name}_high": high}


def _difference_numbers(difference: Difference | None, name: str) -> dict[str, Any]:
    if difference is None:
        return {name: ""}
    if name == "p":
        return {"p": _or_nothing(difference.p_holm)}
    low, high = difference.paired.ci95 or ("", "")
    return {
        name: difference.paired.mean,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_p": _or_nothing(difference.paired.p_value),
        f"{name}_p_holm": _or_nothing(difference.p_holm),
    }


def _or_nothing(value: float | None) -> float | str:
    return "" if value is None else value
