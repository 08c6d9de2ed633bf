"""A report as one HTML file: the page, and the parts that its sections are made of."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.report.html.figure import figure
    from selfexplain.report.html.legend import legend
    from selfexplain.report.html.page import Section, page
    from selfexplain.report.html.pixels import image
    from selfexplain.report.html.scroll import scroll
    from selfexplain.report.html.slider import slider
    from selfexplain.report.html.table import table
    from selfexplain.report.html.text import escape, paragraph

__all__ = [
    "Section",
    "escape",
    "figure",
    "image",
    "legend",
    "page",
    "paragraph",
    "scroll",
    "slider",
    "table",
]

lazily(
    __name__,
    {
        "figure": "figure",
        "legend": "legend",
        "page": "Section page",
        "pixels": "image",
        "scroll": "scroll",
        "slider": "slider",
        "table": "table",
        "text": "escape paragraph",
    },
)
