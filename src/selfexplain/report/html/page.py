"""The page around the sections: one file that needs no other, and no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from selfexplain.report.html.text import escape, paragraph

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
"""Content security policy: the browser itself refuses whatever lies outside the file."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a page.

    Args:
        title: its heading, as text.
        body: its content, as HTML; text from outside must be escaped (`escape`, `paragraph`).
            Headings inside begin at h3.

    Example:
        >>> Section("Results", "<p>none yet</p>").title
        'Results'
    """

    title: str
    body: str


def page(title: str, sections: Sequence[Section], *, summary: str = "") -> str:
    """A self-contained HTML page: style and script are inlined, and it links to itself alone.

    Args:
        title: of the page, as text.
        sections: in the order in which they are shown; the table of contents names them.
        summary: one paragraph below the title, as text.

    Example:
        >>> html = page("Report", [Section("One", "<p>first</p>")])
        >>> html.startswith("<!doctype html>"), '<h2 id="section-1">One</h2>' in html
        (True, True)
    """
    bodies = "\n".join(_section(i, section) for i, section in enumerate(sections, start=1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{_asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>{escape(title)}</h1>
{paragraph(summary) if summary else ""}
</header>
<div class="columns">
{_contents(sections)}
<main id="main" tabindex="-1">
{bodies}
</main>
</div>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def _section(number: int, section: Section) -> str:
    name = f"section-{number}"
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(section.title)}</h2>\n'
        f"{section.body}\n</section>"
    )


def _contents(sections: Sequence[Section]) -> str:
    items = "".join(
        f'<li><a href="#section-{i}">{escape(section.title)}</a></li>'
        for i, section in enumerate(sections, start=1)
    )
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>' if items else ""


@cache
def _asset(name: str) -> str:
    return (files("selfexplain.report.html") / name).read_text(encoding="utf-8")
