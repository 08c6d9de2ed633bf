"""Lines of figures that have one colour on a light page and another on a dark one."""

from selfexplain.report.cell_style import STYLES

DARK = {style.light: style.dark for style in STYLES.values()}
"""Colour of an operation's line on white -> on black."""


def for_both_themes(svg: str) -> str:
    """The colours of lines as variables that `colours_css` sets, by theme.

    Args:
        svg: a figure that draws operations, or other lines in one of their colours.

    Example:
        >>> for_both_themes("stroke: #0069a8")
        'stroke: var(--c-0069a8, #0069a8)'
    """
    for colour in DARK:
        svg = svg.replace(colour, f"var({variable(colour)}, {colour})")
    return svg


def variable(colour: str) -> str:
    """Name of the CSS variable of a line's colour.

    Example:
        >>> variable("#0069a8")
        '--c-0069a8'
    """
    return f"--c-{colour[1:]}"


def colours_css() -> str:
    """Rules that set the variables of all colours on white and on black.

    Example:
        >>> colours_css()[:24]
        ':root{--c-8a8a8a:#8a8a8a'
    """
    light = ";".join(f"{variable(colour)}:{colour}" for colour in DARK)
    dark = ";".join(f"{variable(colour)}:{on_black}" for colour, on_black in DARK.items())
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
