"""What every table has in common: its look in the terminal, its lines in Markdown."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table


def plain_table(caption: str, *, left: Sequence[str], right: Sequence[str]) -> Table:
    """A table without rows for the terminal, its caption below.

    Args:
        caption: how its numbers were made.
        left: headings of the first columns, whose words may be folded.
        right: headings of the others, whose numbers are kept whole.

    Example:
        >>> [str(column.header) for column in plain_table("", left=["a"], right=["b"]).columns]
        ['a', 'b']
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        caption=caption,
        caption_justify="left",
    )
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """The same in Markdown: the first column left, the others right.

    Example:
        >>> print(markdown_table(["a", "b"], [["one", "1"]], "numbers"), end="")
        | a | b |
        | --- | ---: |
        | one | 1 |
        <BLANKLINE>
        *numbers*
    """
    whole = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    lines = [f"| {' | '.join(cells)} |" for cells in whole]
    return "\n".join([*lines, "", f"*{caption}*", ""])
