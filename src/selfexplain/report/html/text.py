"""Text from outside, made safe for HTML."""

import html


def escape(text: object) -> str:
    """A text whose special characters are written as HTML entities, quotes included.

    Example:
        >>> escape('<b> & "c"')
        '&lt;b&gt; &amp; &quot;c&quot;'
    """
    return html.escape(str(text), quote=True)


def paragraph(text: str) -> str:
    """One paragraph of text, escaped.

    Example:
        >>> paragraph("a < b")
        '<p>a &lt; b</p>'
    """
    return f"<p>{escape(text)}</p>"
