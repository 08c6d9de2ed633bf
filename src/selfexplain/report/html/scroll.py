"""A frame that scrolls sideways where its content is wider than the page."""

from selfexplain.report.html.text import escape


def scroll(content: str, kind: str, label: str, *, natural: float | None = None) -> str:
    """Put HTML into a frame that scrolls, by the keyboard too.

    Args:
        content: HTML.
        kind: class of the frame, for its style.
        label: what it holds, as text, for screen readers.
        natural: width in CSS pixels below which the content shall not be shrunk.

    Example:
        >>> scroll("<p>wide</p>", "drawing", "a < b")[:46]
        '<div class="scroll drawing" role="region" tabi'
    """
    style = "" if natural is None else f' style="--natural:{natural:.0f}px"'
    return (
        f'<div class="scroll {kind}" role="region" tabindex="0" aria-label="{escape(label)}"'
        f"{style}>{content}</div>"
    )
