"""The cell of a search at each epoch, as a drawn graph."""

from collections.abc import Mapping
from typing import Any

from selfexplain.report.cell_drawing import cell_svg
from selfexplain.report.html.evenly import evenly
from selfexplain.report.html.scroll import scroll
from selfexplain.report.html.slider import slider
from selfexplain.report.html.text import escape, paragraph
from selfexplain.report.search_sections.record import SearchRecord
from selfexplain.spaces import from_string

NBSP = "\N{NO-BREAK SPACE}"


def cell_part(record: SearchRecord, mark: str) -> str:
    """The derived cell, by a slider over the epochs, each edge with its operation's weight.

    Args:
        record: of the search.
        mark: begins the drawings' ids; another one for each search of a page.

    Example:
        >>> skips = "|skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|"
        >>> config = {"method": "random", "space": "nasbench201", "seed": 0, "epochs": 50}
        >>> record = SearchRecord(config=config, result={"genotype": skips})
        >>> cell_part(record, "a").count("<svg")
        1
    """
    lines = record.history
    if not lines:
        if record.result is None:
            return paragraph("No epoch is finished yet.")
        drawn = cell_svg(from_string(record.result["genotype"]), mark=mark)
        return _frame(drawn) + paragraph("Drawn from the space at random, not searched.")
    chosen = [lines[index] for index in evenly(len(lines))]
    frames = [_frame(_drawing(line, f"{mark}-{line['epoch']}")) for line in chosen]
    captions = [_caption(line, record.config["epochs"]) for line in chosen]
    return _explanation(record) + slider("Epoch", frames, captions) + _kept(record)


def _drawing(line: Mapping[str, Any], mark: str) -> str:
    return cell_svg(from_string(line["genotype"]), weights=line["weights"], mark=mark)


def _frame(svg: str) -> str:
    return scroll(svg, "search-cell", "drawn cell")


def _caption(line: Mapping[str, Any], epochs: int) -> str:
    return (
        f"after epoch {line['epoch']} of {epochs}: {100 * line['skip_share']:.0f}{NBSP}% of its "
        f"edges are skip connections; supernet's accuracy {line['validation_accuracy']:.2f}{NBSP}%"
    )


def _explanation(record: SearchRecord) -> str:
    if record.config["method"] == "random_search":
        return paragraph("The best of the cells that were scored after each epoch.")
    return paragraph(
        "The cell that the architecture stands for after an epoch. The number on an edge is the "
        "weight of its operation among all that the edge could be; faint edges weigh little."
    )


def _kept(record: SearchRecord) -> str:
    """A line on the cell of the result, where it is not that of the last epoch."""
    if record.result is None or record.result["genotype"] == record.history[-1]["genotype"]:
        return ""
    kept = escape(record.result["genotype"])
    return (
        "<p>The search was stopped because of its skip connections; the cell it keeps is that of "
        f"the epoch before: <code>{kept}</code></p>"
    )
