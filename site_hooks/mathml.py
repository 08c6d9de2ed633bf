"""Formulas as MathML, made when the site is built: readers need neither a script nor a network."""

import html
import logging
import re
from typing import Any

from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.mathml")

FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\(?:\(|\[)(?P<latex>.*?)\\(?:\)|\])</\1>', re.DOTALL
)
"""What pymdownx.arithmatex makes of $...$ (a span) and $$...$$ (a div)."""

NOT_UNDERSTOOD = re.compile(r"\\|>&<")
"""The converter leaves unknown commands, and the columns of unknown tables, as they are."""

PRIME = re.compile(r"<msup>(<mi>[^<]*</mi>)<mi>&#x02032;</mi></msup>")
"""A prime as a superscript; its character is raised as it is, and twice raised it is too small."""


def with_mathml(page: str) -> str:
    r"""The HTML of a page with MathML in place of its TeX formulas.

    Example:
        >>> with_mathml(r'<span class="arithmatex">\(x\)</span>').count("<mi>x</mi>")
        1
    """
    return FORMULA.sub(_mathml, page)


def _mathml(match: re.Match[str]) -> str:
    latex = html.unescape(match["latex"]).strip()
    made = convert(latex, display="inline" if match[1] == "span" else "block")
    if NOT_UNDERSTOOD.search(made):
        log.warning("MathML cannot be made of all of this formula: %s", latex)
    made = PRIME.sub(r'<mrow>\1<mo lspace="0" rspace="0">&#x02032;</mo></mrow>', made)
    # A scroll bar of its own for a formula wider than the window; math elements have none.
    return made if match[1] == "span" else f'<div class="formula">{made}</div>'


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs with the HTML of each page."""
    return with_mathml(html)
