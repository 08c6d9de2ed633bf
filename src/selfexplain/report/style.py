"""Colours, line styles and names that figures and pages share."""

from collections.abc import Sequence
from typing import NamedTuple

# The colours of pictures, told apart by the colour-blind too.
#
# Source: Okabe and Ito (2008), "Color Universal Design", without its yellow, which white
# swallows.


BLUE, VERMILION, GREEN, PINK, ORANGE, SKY = SERIES = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)
"""Colours of lines, in their order."""
GREY = "#7f7f7f"
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1, 1.5), (6, 2, 1, 2))
"""Lengths of dash and gap in line widths; a line without is drawn through."""


def line_style(place: int) -> tuple[str, tuple[float, ...]]:
    """Colour and dashes of the line at a place; the dashes change when the colours run out.

    Example:
        >>> line_style(0), line_style(7)
        (('#0072b2', ()), ('#d55e00', (5, 2)))
    """
    turn, colour = divmod(place, len(SERIES))
    return SERIES[colour], DASHES[turn % len(DASHES)]


# How the picture of a cell looks: colours on white and on black, widths, dashes.


class Style(NamedTuple):
    """How an operation's edges look: colour on white and on black, width, dashes."""

    light: str
    dark: str
    width: float
    dashes: tuple[float, ...] = ()


STYLES: dict[str, Style] = {
    "none": Style("#8a8a8a", "#8f8f8f", 1.2, (1.5, 4.5)),
    "skip_connect": Style("#6f6f6f", "#a8a8a8", 1.5),
    "max_pool_3x3": Style("#00735a", "#4fd1a5", 2.6, (3, 3)),
    "avg_pool_3x3": Style("#7d6300", "#e6cb50", 2.6, (8, 4)),
    "sep_conv_3x3": Style("#0069a8", "#5fb8f0", 3.0),
    "sep_conv_5x5": Style("#17356b", "#a9c6ff", 5.0),
    "dil_conv_3x3": Style("#bd4300", "#ff9f60", 3.0, (14, 4)),
    "dil_conv_5x5": Style("#86265c", "#f2a3d2", 5.0, (14, 4)),
    "nor_conv_1x1": Style("#0069a8", "#5fb8f0", 3.0),
    "nor_conv_3x3": Style("#17356b", "#a9c6ff", 5.0),
}
"""Operation -> its look: strongest where most is computed; dashes and widths outlive grey print."""
OTHER = "nor_conv_1x1"
"""What an operation looks like that has no look of its own."""


def disambiguate(names: Sequence[str]) -> list[str]:
    """The names as they are, or numbered if two of them are alike.

    Example:
        >>> disambiguate(["a", "b"]), disambiguate(["a", "a"])
        (['a', 'b'], ['a (1)', 'a (2)'])
    """
    if len(set(names)) == len(names):
        return list(names)
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]
