"""The forest plot: every paired difference with its intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from selfexplain.errors import InputError
from selfexplain.report.publish import SCORES, Block, Difference, check_columns
from selfexplain.report.style import LineStyle, method_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def forest_figure(blocks: Sequence[Block], score: str = "accuracy") -> Figure:
    """Every objective's paired difference to the first of its comparison, with its intervals.

    Thick: the 95 % interval of the one difference. Thin: the one that holds for all differences of
    the comparison together (Bonferroni). Filled: significant after Holm's correction; the others
    are hollow. Every objective has its colour of other figures.

    Args:
        blocks: the comparisons, one below the other.
        score: one of `SCORES`.

    Raises:
        InputError: there is no such score, or nothing to compare.

    Example:
        >>> rows = [{"objective": o, "seed": s, "accuracy": 90.0 + s * (o == "kd")}
        ...         for o in ("standard", "kd") for s in (0, 1)]
        >>> [text.get_text() for text in forest_figure([Block(rows)]).axes[0].get_yticklabels()]
        ['kd']
    """
    from matplotlib.figure import Figure  # a refusal does not wait for it

    check_columns([score], list(SCORES))
    drawn = {
        place: {o: d for o, d in block.differences(score).items() if d is not None}
        for place, block in enumerate(blocks)
    }
    shown = [place for place, differences in drawn.items() if differences]
    if not shown:
        raise InputError(
            f"there is no difference in {score} to draw; pass comparisons of at least two "
            "objectives with a seed in common"
        )
    heights = [len(drawn[place]) + 0.6 for place in shown]
    around = 0.6 + 0.55 * len(shown)
    figure = Figure(figsize=(7.5, around + 0.27 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, place in zip(panels, shown, strict=True):
        styles = method_styles(blocks[place].objectives)
        _draw_block(axes, drawn[place], styles, SCORES[score].digits)
        if len(blocks) > 1:
            axes.set_title(blocks[place].title, fontsize=9, loc="left", parse_math=False)
    panels[-1].set_xlabel(_axis_said(blocks, score), fontsize=9, parse_math=False)
    return figure


def _draw_block(
    axes: Axes,
    differences: Mapping[str, Difference],
    styles: Mapping[str, LineStyle],
    digits: int,
) -> None:
    """One comparison; the axis ends where its 95 % intervals do, and wider ones go on."""
    axes.axvline(0, color="black", linewidth=0.8)
    for place, (objective, difference) in enumerate(differences.items()):
        _draw_difference(axes, place, difference, styles[objective].colour, digits)
    ends = [0.0]
    for difference in differences.values():
        ends += difference.paired.ci95 or (difference.paired.mean,)
    room = 0.08 * (max(ends) - min(ends)) or 1.0
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.set_yticks(range(len(differences)), list(differences), fontsize=8, parse_math=False)
    axes.set_ylim(len(differences) - 0.2, -0.8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_difference(
    axes: Axes, place: int, difference: Difference, colour: str, digits: int
) -> None:
    paired = difference.paired
    for interval, width in ((paired.simultaneous95, 1.0), (paired.ci95, 3.0)):
        if interval is not None:
            axes.plot(interval, [place, place], color=colour, linewidth=width, zorder=2)
    axes.plot(
        [paired.mean],
        [place],
        marker="o",
        markersize=6,
        color=colour,
        markerfacecolor=colour if difference.survives else "white",
        zorder=3,
    )
    said = f"{paired.mean:+.{digits}f}"
    if paired.ci95 is not None:
        said += " [{:+.{d}f}, {:+.{d}f}]".format(*paired.ci95, d=digits)
    axes.annotate(
        said + "*" * difference.survives,
        (1.01, place),
        xycoords=("axes fraction", "data"),
        fontsize=7.5,
        verticalalignment="center",
    )


def _axis_said(blocks: Sequence[Block], score: str) -> str:
    firsts = list(dict.fromkeys(block.objectives[0] for block in blocks))
    to = firsts[0] if len(firsts) == 1 else "the first"
    side = "right" if SCORES[score].better == "higher" else "left"
    unit = " in points" if "%" in SCORES[score].heading else ""
    name = SCORES[score].heading.replace(" %", "")
    return (
        f"difference in {name} to {to}{unit}, over the same seeds ({side} is better)\n"
        "thick: 95 % interval; thin: for all together; filled, *: significant after Holm's "
        "correction"
    )
