"""The report of a study of search methods: what was proven, and the cells that were found."""

from collections.abc import Mapping
from typing import Any
from zlib import crc32

from markupsafe import Markup

from selfexplain.report.cell_drawing import cell_svg
from selfexplain.report.html import (
    FRAMES,
    Section,
    figure,
    linspace_indices,
    part,
    render,
    slider,
    table,
)
from selfexplain.report.nas_study import anytime_figure, nas_study_caption, nas_study_cells
from selfexplain.report.sections.scores import facts
from selfexplain.spaces import from_string

Row = Mapping[str, Any]


def nas_study_results(results: Row) -> Section:
    """The sentence, the table, and the curves of the look-ups if there were any.

    Args:
        results: what `results.json` of a study holds.
    """
    config = results["config"]
    about = (
        f"{results['sentence']} {config['space']} on {config['data']['data']}, batches of "
        f"{config['batch_size']}, {facts({'seeds': config['seeds']}, config['environment'])}"
    )
    header, rows = nas_study_cells(results)
    shown = {"header": header, "rows": rows, "caption": nas_study_caption(results)}
    if results["reference"] is None:
        return Section("Results", render("results.html", about=about, table=shown))
    curves = figure(anytime_figure(results), f"Line chart. {_ends(results)}")
    over_time = render(
        "results.html",
        about="The accuracy, in the table, of the cell that a search would have ended with after "
        "each epoch: mean over seeds, the band is the standard deviation. Dashed: the best cell of "
        "the table; dotted: the mean of all. A diamond is the mean of the cells that were chosen "
        "in the end, where these are others than those of the last epoch.",
        chart=curves,
        wide="accuracy of the cells over time",
    )
    parts = (Section("Over time", over_time),)
    return Section("Results", render("results.html", about=about, table=shown), parts)


def _ends(results: Row) -> str:
    return "; ".join(
        f"{line['method']} after {line['budget']} epochs: {line['table']['mean']:.2f} %"
        for line in results["summary"]
    )


MOST_CELLS = 200
"""So many drawings a page can bear."""


def found_cells(results: Row) -> Section:
    """The cells of each method, one a seed, each called undecided where it is.

    Args:
        results: what `results.json` of a study holds.
    """
    rows = results["rows"]
    groups = dict.fromkeys((row["method"], row["budget"]) for row in rows)
    parts = []
    for method, budget in groups:
        mine = [row for row in rows if (row["method"], row["budget"]) == (method, budget)]
        most = max(2, min(FRAMES, MOST_CELLS // len(groups)))
        shown = [mine[index] for index in linspace_indices(len(mine), most)]
        body = slider("Seed", [_drawing(row) for row in shown], [_said_of(row) for row in shown])
        parts.append(Section(f"{method}, {budget} epoch{'s' * (budget > 1)}", body))
    about = (
        "The number on an edge is the weight of its operation at the end of the search; a cell is "
        "undecided if on more than half of the edges the largest weight is below "
        f"{results['config']['undecided_below']:g} times uniform ones."
    )
    return Section("Cells", about, tuple(parts))


def _drawing(row: Row) -> Markup:
    mark = f"cell-{crc32(repr([row[name] for name in ('method', 'budget', 'seed')]).encode()):08x}"
    svg = cell_svg(from_string(row["genotype"]), weights=row["weights"], mark=mark)
    return part("scroll", "search-cell", "drawn cell", caller=lambda: Markup(svg))  # noqa: S704


def _said_of(row: Row) -> str:
    """What to know of a cell, in a line."""
    words = [f"seed {row['seed']}"]
    if row["undecided"]:
        words.append(
            f"undecided (near uniform on {100 * row['undecided_edges']:.0f} % of its edges)"
        )
    if "table" in row:
        words.append(f"{row['table']:.2f} % in the table, rank {row['rank']}")
    words.append(f"{row['skips']} of {row['edges']} edges are skip connections")
    if row["collapsed"]:
        words.append("collapsed")
    return ", ".join(words)


def searches_of_study(results: Row) -> Section:
    """A row for each search, and for each retraining."""
    rows = [
        [
            f"{row['method']}, {row['budget']} epochs, seed {row['seed']}",
            f"{row['table']:.2f}" if "table" in row else "",
            f"{row['validation_accuracy']:.2f}" if "validation_accuracy" in row else "",
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
            row["genotype"],
        ]
        for row in results["rows"]
    ]
    header = ["search", "table %", "supernet %", "s", "cell"]
    caption = (
        "supernet: its accuracy on held-out images, which other supernets' do not compare with"
    )
    parts: tuple[Section, ...] = ()
    if results["retrained"]:
        trained = [
            [
                f"{row['method']}, {row['budget']} epochs, seed {row['seed']}",
                f"{row['found_by']}",
                f"{row['accuracy']:.2f}",
            ]
            for row in results["retrained"]
        ]
        caption_of = "accuracy on the test images; found by: seed of the search whose cell it is"
        body = table(["training", "found by", "accuracy, %"], trained, caption=caption_of)
        parts = (Section("Retrained", body),)
    return Section("Searches", table(header, rows, caption=caption), parts)
