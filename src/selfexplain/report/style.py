"""Colours, line styles and names that figures and pages share."""

import re
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

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
PALETTE = (*SERIES, GREY)
"""Colours of methods."""
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (5, 2),
    (6, 2, 1, 2),
    (1, 1.5),
    (8, 3),
    (3, 1.5),
    (2, 2),
)
"""Lengths of dash and gap in line widths, of each colour in its place: they tell lines apart for
the colour-blind and on grey paper. A line without is drawn through."""


# One colour for a method, on every page, in every figure and table.


USUAL = {
    "standard": GREY,
    "plain": GREY,
    "random": GREY,
    "introspective": BLUE,
    "lease": BLUE,
    "full": BLUE,
    "own_mass": SKY,
    "label_smoothing": VERMILION,
    "darts1": SKY,
    "darts2": VERMILION,
    "ps_kd": GREEN,
    "drnas": GREEN,
    "kd": PINK,
    "sanas": ORANGE,
}
"""The colour of what is compared often; others take those that are left."""


class LineStyle(NamedTuple):
    """How a method's line is drawn; its points and bars have the same colour."""

    colour: str
    dashes: tuple[float, ...]


def method_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """A style for each method, no two alike for up to 49: its usual colour, or one that is free.

    Args:
        names: of the methods, as they are compared, with options or without.

    Example:
        >>> styles = method_styles(["standard", "introspective", "introspective:weight=1", "mine"])
        >>> [styles[name].colour for name in styles]
        ['#7f7f7f', '#0072b2', '#d55e00', '#e69f00']
    """
    every = [
        LineStyle(colour, DASHES[(place + turn) % len(DASHES)])
        for turn in range(len(DASHES))
        for place, colour in enumerate(PALETTE)
    ]
    taken: dict[str, LineStyle] = {}
    for name in names:
        usual = USUAL.get(re.split(r"\W", name)[0])
        style = None if usual is None else every[PALETTE.index(usual)]
        if style is not None and style not in taken.values():
            taken[name] = style
    left: list[LineStyle] = []
    for name in names:
        if name not in taken:
            left = left or [style for style in every if style not in taken.values()] or every[:]
            taken[name] = min(left, key=lambda style: _rank(name, every.index(style)))
            left.remove(taken[name])
    return {name: taken[name] for name in names}


def _rank(name: str, place: int) -> tuple[int, bool, int]:
    """How gladly a method without a usual colour takes a style: its own pages are to agree.

    First those of the first dashes; of these neither introspection's colour nor the baseline's;
    of these the one that its name says.
    """
    turn, colour = divmod(place, len(PALETTE))
    return (
        turn,
        PALETTE[colour] in {BLUE, GREY},
        (colour - crc32(name.encode(errors="replace"))) % len(PALETTE),
    )


def series_of(colour: str) -> int:
    """Number of the CSS variable `--series-N` that has a method's colour, light or dark.

    Example:
        >>> series_of("#0072b2")
        1
    """
    return PALETTE.index(colour) + 1


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
