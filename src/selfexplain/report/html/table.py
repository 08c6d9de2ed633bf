"""Tables that scroll inside their own frame where the page is narrow."""

from collections.abc import Iterable, Sequence

from selfexplain.report.html.text import escape


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str) -> str:
    """A table: the first column names its row, the others hold numbers and stand to the right.

    Args:
        header: headings of the columns, as text.
        rows: cells, as text.
        caption: how its numbers were made, as text; it stands below and names the scrolling frame.

    Example:
        >>> html = table(["name", "%"], [["a<b", "1.0"]], caption="shares")
        >>> '<th scope="row">a&lt;b</th><td>1.0</td>' in html
        True
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(_row(row) for row in rows)
    return (
        f'<figure class="table"><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(caption)}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _row(cells: Sequence[object]) -> str:
    name, *numbers = cells
    data = "".join(f"<td>{escape(number)}</td>" for number in numbers)
    return f'<tr><th scope="row">{escape(name)}</th>{data}</tr>'
