"""The curves of a search: what its operations weigh, and how its levels learn."""

from collections.abc import Mapping, Sequence
from typing import Any

from selfexplain.report.html.figure import figure
from selfexplain.report.html.line_colours import for_both_themes
from selfexplain.report.html.scroll import scroll
from selfexplain.report.html.text import escape, paragraph
from selfexplain.report.search_plot import architecture_figure
from selfexplain.report.search_sections.alphas import alphas_table
from selfexplain.report.search_sections.losses import level_figures
from selfexplain.report.search_sections.record import SearchRecord
from selfexplain.spaces import FAMILIES, from_string


def alphas_part(record: SearchRecord) -> str:
    """The softmax of the alphas over the epochs, an edge a panel, and the raw ones at the end.

    Example:
        >>> alphas_part(SearchRecord(config={"method": "random"}))
        '<p>No epoch is finished yet.</p>'
    """
    lines = record.history
    if not lines:
        return paragraph("No epoch is finished yet.")
    operations = FAMILIES[from_string(lines[0]["genotype"]).family].operations
    words = (
        "Softmax of the alphas of each edge (source → target) after each epoch; below, the mean "
        "entropy over the edges: how undecided the architecture still is."
    )
    if record.config["method"] == "random_search":
        words = "The operations of the best cell after each epoch: it is drawn, so each is 1 or 0."
    charts = [_weights_of(cell, lines, operations) for cell in lines[0]["weights"]]
    return paragraph(words) + "".join(charts) + alphas_table(record)


def _weights_of(cell: str, lines: Sequence[Mapping[str, Any]], operations: Sequence[str]) -> str:
    """The figure of one cell, in a frame that scrolls rather than shrink it."""
    drawn = architecture_figure([{cell: line["weights"][cell]} for line in lines], operations)
    alt = f"{cell}: weights of the operations on each edge over {len(lines)} epochs"
    chart = for_both_themes(figure(drawn, alt))
    return scroll(chart, "search-alphas", alt, natural=96 * drawn.get_figwidth())


def losses_part(record: SearchRecord) -> str:
    """The losses of the levels, and the supernet's accuracy, over the epochs.

    Example:
        >>> losses_part(SearchRecord(config={"method": "random"}))
        '<p>No epoch is finished yet.</p>'
    """
    if not record.history:
        return paragraph("No epoch is finished yet.")
    charts = [
        f"<div><h4>{escape(title)}</h4>{for_both_themes(figure(drawn, f'{title}, by epoch'))}</div>"
        for title, drawn in level_figures(record.history).items()
    ]
    return paragraph(_words(record)) + f'<div class="charts search-levels">{"".join(charts)}</div>'


def _words(record: SearchRecord) -> str:
    """What the losses are of."""
    sentences = ["Means over the steps of an epoch; cross-entropies in nats."]
    if record.explains:
        climbed = "its loss"
        if record.config["options"]["control"] == "saliency":
            climbed = "the score of the class that it predicts (which is no cross-entropy)"
        sentences.append(
            f"I to III are of training images. In II the explainer climbs {climbed}. The "
            "audience's loss is that on images and, times gamma, that on explained images. IV "
            "is of held-out images and moves the architecture."
        )
    levels = [line["losses"] for line in record.history]
    if "validation" not in levels[0] and "validation" in levels[-1]:
        sentences.append("In the warm-up the architecture rests.")
    return " ".join(sentences)
