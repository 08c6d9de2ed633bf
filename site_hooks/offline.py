"""The site works without a network: nothing that a page loads comes from elsewhere."""

import logging
import re
from html.parser import HTMLParser
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig

log = logging.getLogger("mkdocs.hooks.offline")

REMOTE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
LOADED_BY_CSS = re.compile(
    r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE
)
LINKS = {"a", "area"}
"""Elements whose address is opened by the reader alone."""
LATER = {"mermaid"}
"""Classes of elements for which the theme's script fetches a library."""


def on_post_build(config: MkDocsConfig) -> None:
    """Called by mkdocs when the site is written; a warning fails a strict build."""
    site = Path(config.site_dir)
    for path in sorted(site.rglob("*.html")) + sorted(site.rglob("*.css")):
        find = remote_in_html if path.suffix == ".html" else remote_in_css
        for address in find(path.read_text()):
            log.warning("%s loads %s, from elsewhere", path.relative_to(site), address)


def remote_in_html(text: str) -> list[str]:
    """What a page loads from elsewhere; links that a reader may follow do not count.

    Example:
        >>> remote_in_html('<a href="https://a.org">a</a><script src="https://b.org/c.js"></script>')
        ['https://b.org/c.js']
    """
    page = _Page()
    page.feed(text)
    return page.remote


def remote_in_css(text: str) -> list[str]:
    """What a style sheet loads from elsewhere.

    Example:
        >>> remote_in_css("@font-face { src: url(https://fonts.org/a.woff2) }")
        ['https://fonts.org/a.woff2']
    """
    return LOADED_BY_CSS.findall(text)


class _Page(HTMLParser):
    """Collects the addresses that a browser fetches by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.remote: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "href", "data", "poster"} and tag not in LINKS:
                self._note(tag, dict(attrs), value or "")
            elif name == "srcset":
                self.remote += [p for p in (value or "").split(",") if REMOTE.match(p)]
            elif name == "style":
                self.remote += remote_in_css(value or "")
            elif name == "class":
                self.remote += [f"what .{c} needs" for c in LATER & set((value or "").split())]

    def _note(self, tag: str, attrs: dict[str, str | None], address: str) -> None:
        # the address of the page itself is told to search engines, not fetched
        if REMOTE.match(address) and not (tag == "link" and attrs.get("rel") == "canonical"):
            self.remote.append(address)

    def handle_data(self, data: str) -> None:
        if self.rawdata and self.cdata_elem == "style":
            self.remote += remote_in_css(data)
