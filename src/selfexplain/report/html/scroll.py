"""A frame in which what is wider than the page scrolls, by keyboard too."""

from selfexplain.report.html.text import escape


def scrolling(body: str, label: str) -> str:
    """A fragment in a frame of its own that scrolls sideways.

    Args:
        body: HTML.
        label: what it is, as text; screen readers say it when the frame takes the focus.

    Example:
        >>> scrolling("<p>wide</p>", "a wide text")
        '<div class="scroll" role="region" tabindex="0" aria-label="a wide text"><p>wide</p></div>'
    """
    label = escape(label)
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">{body}</div>'
