"""Matplotlib's figures as inline SVG that takes the colour and the fonts of the page."""

import hashlib
import io
import re
import warnings

import matplotlib as mpl
from matplotlib.figure import Figure

from selfexplain.report.html.text import escape
from selfexplain.report.palette import SERIES

INK = "#000000"
"""What is drawn in black takes the colour of the page's text."""
SETTINGS = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, found and copied
    "svg.hashsalt": "selfexplain",
    "image.composite_image": False,
}
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def figure(figure: Figure, alt: str) -> str:
    """A figure as inline SVG; what is black in it becomes the page's text colour, light or dark.

    The colours of `report/palette.py` take the page's shades of them, too. The same figure gives
    the same text, at any time.

    Args:
        figure: without a background of its own; it is left as it was.
        alt: what it shows, as text, for those who cannot see it.

    Example:
        >>> drawn = Figure(figsize=(3, 2)); _ = drawn.subplots().plot([1, 2], color="black")
        >>> html = figure(drawn, "a rising line")
        >>> 'role="img" aria-label="a rising line"' in html, INK in html, "currentColor" in html
        (True, False, True)
    """
    file = io.StringIO()
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        # Text is drawn by the browser, whose fonts have more glyphs than matplotlib's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="svg", transparent=True, metadata=NO_METADATA)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = _with_own_ids(svg, hashlib.sha256((alt + svg).encode()).hexdigest()[:8])
    # Black is SVG's default and matplotlib leaves it out at times: the root sets it for all.
    opening = f'<svg role="img" aria-label="{escape(alt)}" fill="currentColor"'
    return f'<div class="chart">{_in_colours_of_page(svg).replace("<svg", opening, 1)}</div>'


def _in_colours_of_page(svg: str) -> str:
    """The page has a shade of every colour for light and one for dark."""
    svg = svg.replace(INK, "currentColor")
    for place, colour in enumerate(SERIES, start=1):
        svg = svg.replace(colour, f"var(--series-{place})")
    return svg


def _with_own_ids(svg: str, prefix: str) -> str:
    """Prefix the names that are referred to and drop the others: two figures share none."""
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))

    def own(match: re.Match[str]) -> str:
        return f' id="f{prefix}-{match[1]}"' if match[1] in used else ""

    svg = re.sub(r' id="([^"]*)"', own, svg)
    return re.sub(r"(url\(|href=\")#", rf"\g<1>#f{prefix}-", svg)
