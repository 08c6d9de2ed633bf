"""Which line of the charts on a page is whose."""

from collections.abc import Sequence

from selfexplain.report.html.text import escape
from selfexplain.report.palette import SERIES, line_style


def legend(names: Sequence[str]) -> str:
    """A list of names, each beside its line (`line_style`); one serves all charts below it.

    Args:
        names: in the order of the lines, as text.

    Example:
        >>> legend(["standard"]).count("<li>")
        1
    """
    return f'<ul class="legend">{"".join(map(_entry, range(len(names)), names))}</ul>'


def _entry(place: int, name: str) -> str:
    colour, dashes = line_style(place)
    pattern = " ".join(f"{2 * length:g}" for length in dashes)
    dashed = f' stroke-dasharray="{pattern}"' if pattern else ""
    return (
        '<li><svg viewBox="0 0 36 10" aria-hidden="true"><line x1="0" y1="5" x2="36" y2="5" '
        f'style="stroke: var(--series-{SERIES.index(colour) + 1})" stroke-width="2.5"{dashed}/>'
        f"</svg>{escape(name)}</li>"
    )
