"""Tables that scroll inside their own frame where the page is narrow."""

import re
from collections.abc import Iterable, Sequence

from selfexplain.report.html.scroll import scroll
from selfexplain.report.html.text import escape


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str, words: int = 1
) -> str:
    """A table: the first column names its row, the last ones hold numbers and stand to the right.

    Args:
        header: headings of the columns, as text.
        rows: cells, as text.
        caption: how its numbers were made, as text; it stands below and names the scrolling frame.
        words: number of first columns that hold words and stand to the left.

    Example:
        >>> html = table(["name", "%"], [["a<b", "1.0"]], caption="shares")
        >>> '<th scope="row">a&lt;b</th><td>1.0</td>' in html
        True
    """
    head = "".join(
        f'<th scope="col"{_side(i, words)}>{escape(name)}</th>' for i, name in enumerate(header)
    )
    body = "".join(_row(row, words) for row in rows)
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f'<figure class="table">{scroll(whole, "numbers", caption)}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _row(cells: Sequence[object], words: int) -> str:
    name, *others = cells
    data = "".join(
        f"<td{_side(i, words)}>{escape(cell)}</td>" for i, cell in enumerate(others, start=1)
    )
    # The name of a method with options may be broken after each of them.
    broken = re.sub(r"([:,])(?=\S)", r"\1<wbr>", escape(name))
    return f'<tr><th scope="row">{broken}</th>{data}</tr>'


def _side(column: int, words: int) -> str:
    """The class of a cell that stands to the left; the first column's needs none."""
    return ' class="words"' if 0 < column < words else ""
