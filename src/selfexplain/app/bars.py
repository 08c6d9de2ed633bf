"""Numbers of named classes as bars, in HTML."""

from collections.abc import Callable, Sequence
from html import escape


def bars(
    label: str,
    rows: Sequence[tuple[str, float]],
    *,
    tone: str,
    write: Callable[[float], str],
    full: float | None = None,
) -> str:
    """A list of bars; where a value is below 0, zero is in the middle.

    Args:
        label: of the list, for screen readers.
        rows: name and value of each bar, in order.
        tone: class of the style sheet that colours them.
        write: a value as text.
        full: the value of a whole bar; None for the largest of these.

    Example:
        >>> "width:50.0%" in bars("x", [("cat", 0.5)], tone="plain", write=str, full=1.0)
        True
    """
    full = full or max((abs(value) for _, value in rows), default=0.0) or 1.0
    signed = any(value < 0 for _, value in rows)
    items = "".join(_bar(name, value / full, write(value), signed) for name, value in rows)
    return f'<ul class="sx-bars sx-{tone}" aria-label="{escape(label)}">{items}</ul>'


def _bar(name: str, share: float, text: str, signed: bool) -> str:
    width = 100 * min(1.0, abs(share)) / (2 if signed else 1)
    start = 50 - (width if share < 0 else 0) if signed else 0
    return (
        f'<li><span class="sx-name" title="{escape(name)}">{escape(name)}</span>'
        f'<span class="sx-track" aria-hidden="true">'
        f'<i style="left:{start:.1f}%;width:{width:.1f}%"></i></span>'
        f'<span class="sx-value">{escape(text)}</span></li>'
    )
