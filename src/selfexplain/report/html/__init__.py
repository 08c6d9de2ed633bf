"""A report as one HTML file: the page, and the parts that its sections are made of."""

from selfexplain.report.html.figure import figure
from selfexplain.report.html.page import Section, page
from selfexplain.report.html.pixels import image
from selfexplain.report.html.slider import slider
from selfexplain.report.html.table import table
from selfexplain.report.html.text import escape, paragraph

__all__ = ["Section", "escape", "figure", "image", "page", "paragraph", "slider", "table"]
