"""The colours of pictures, told apart by the colour-blind too.

Source: Okabe and Ito (2008), "Color Universal Design", without its yellow, which white swallows.
"""

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
