"""What the page shows of an explanation, as HTML.

Shape suffixes: C channels, H and W space, K classes.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from selfexplain.app.explain import Explanation
from selfexplain.report.html import image_pixels, map_pixels, part, png_uri, render

LARGEST = 128
"""Side of a drawn map in pixels; finer maps are averaged, for they are shown no larger."""
TOP = 5
"""Bars of the prediction, of the similarities and of the soft target."""
CRISP = 64
"""Images below this size in pixels are enlarged without smoothing."""
PACKAGE = "selfexplain.app"
"""Whose templates these are."""


def explanation_html(
    explanation: Explanation,
    *,
    maps: int,
    scale: float | None = None,
    full: float | None = None,
    series: int = 1,
) -> str:
    """Everything that is shown of one image and one run, with its strongest class maps.

    Args:
        explanation: of the image.
        maps: how many are drawn.
        scale: the absolute value of a map that is drawn strongest; None for the greatest here.
        full: the similarity of a whole bar; None for the greatest here.
        series: number of the colour of the run's method.
    """
    names, p_K, k = explanation.class_names, explanation.probability_K, explanation.predicted
    channels, *size_HW = explanation.image_CHW.shape
    maps_KHW = explanation.maps_KHW
    alone = scale is None
    scale = scale or strength(explanation)
    shares = explanation.target_K.sort(descending=True).values[: min(TOP, len(names) - 1)]
    return str(
        render(
            "explanation.html",
            PACKAGE,
            image=image_uri(explanation.image_CHW),
            grey=image_uri(explanation.image_CHW, grey=True),
            size_HW=size_HW,
            colours="grey" if channels == 1 else "colour",
            crispness="sx-crisp" if max(size_HW) < CRISP else "sx-smooth",
            predicted=names[k],
            sure=_percent(float(p_K[k])),
            probabilities=_bars(names, p_K, _percent, full=1.0),
            classes=len(names),
            alone=alone,
            series=series,
            maps=[
                {
                    "name": names[each],
                    "uri": map_uri(maps_KHW[each], scale),
                    "probability": _percent(float(p_K[each])),
                }
                for each in by_strength(maps_KHW)[:maps]
            ],
            map_size_HW=maps_KHW.shape[1:],
            measure=explanation.measure.replace("_", " "),
            similarities=_bars(names, explanation.similarity_K, _number, without=k, full=full),
            own=explanation.own,
            fixed=[_percent(float(share)).removesuffix(" %") for share in shares]
            if explanation.fixed
            else None,
            target=_bars(names, explanation.target_K, _percent, without=k, full=1.0),
        )
    )


def strength(explanation: Explanation) -> float:
    """The greatest absolute value of its maps; 1 if they are all 0."""
    return float(explanation.maps_KHW.abs().max()) or 1.0


def likeness(explanation: Explanation) -> float:
    """The greatest absolute value of the similarities that have bars."""
    others_K = explanation.similarity_K.clone()
    others_K[explanation.predicted] = 0
    shown = others_K[others_K.argsort(descending=True, stable=True)[:TOP]]
    return float(shown.abs().max())


def title_html(names: Sequence[str], classes: Sequence[tuple[str, ...]]) -> str:
    """The heading of the page; of two runs, how their classes differ.

    Args:
        names: of the runs.
        classes: of each run.
    """
    differences = []
    if len(classes) == 2:
        for name, own, other in zip(names, classes, reversed(classes), strict=True):
            alone = [each for each in own if each not in set(other)]
            if alone:
                more = f" and {len(alone) - TOP} more" if len(alone) > TOP else ""
                differences.append(f"only {name} knows {', '.join(alone[:TOP])}{more}")
    return str(part("title", "; ".join(differences), package=PACKAGE))


def run_html(name: str, facts: Sequence[str], series: int) -> str:
    """The heading of a run: its objective, its images and accuracy, the colour of its method."""
    return str(part("run", name, ", ".join(facts), series, package=PACKAGE))


def tabs_html(names: Sequence[str]) -> str:
    """What a narrow page chooses a run with; nothing for one run."""
    return str(part("tabs", names, package=PACKAGE)) if len(names) > 1 else ""


def hint_html() -> str:
    """What stands in the place of an explanation before there is an image."""
    return str(part("hint", package=PACKAGE))


def reading_html() -> str:
    """What stands over thumbnails until their images have been read."""
    return str(part("reading", package=PACKAGE))


def note_html(sentence: str) -> str:
    """One sentence of what cannot be shown, and why."""
    return str(part("note", sentence, package=PACKAGE))


def error_html(sentence: str) -> str:
    """One sentence of what was wrong and what to pass instead.

    Example:
        >>> error_html("x < 1; pass 1")
        '<p class="sx-error" role="alert">x &lt; 1; pass 1</p>'
    """
    return str(part("error", sentence, package=PACKAGE))


def image_uri(image_CHW: Tensor, *, grey: bool = False) -> str:
    """A uint8 image (C, H, W) as a data URI, in its own size; in pale grey to lay maps on."""
    return png_uri(image_pixels(image_CHW, grey=grey, side=max(image_CHW.shape[1:])))


def map_uri(map_HW: Tensor, scale: float) -> str:
    """A signed map as a transparent layer, at the map's resolution; the browser enlarges it.

    `scale` is the value drawn in full strength.
    """
    return png_uri(map_pixels(map_HW, scale, side=LARGEST))


def by_strength(maps_KHW: Tensor) -> list[int]:
    """Classes by how much speaks for them: the mean over the map's places of its positive part."""
    order: list[int] = maps_KHW.relu().mean(dim=(1, 2)).argsort(descending=True).tolist()
    return order


def _bars(
    names: Sequence[str],
    values_K: Tensor,
    write: Callable[[float], str],
    *,
    without: int | None = None,
    full: float | None = None,
) -> list[dict[str, Any]]:
    """The greatest values; a whole bar is `full`, and zero is in the middle if one is negative."""
    order = values_K.argsort(descending=True, stable=True).tolist()
    values = {k: float(values_K[k]) for k in [k for k in order if k != without][:TOP]}
    full = full or max(map(abs, values.values()), default=0.0) or 1.0
    signed = any(value < 0 for value in values.values())
    bars = []
    for k, value in values.items():
        width = 100 * min(1.0, abs(value / full)) / (2 if signed else 1)
        start = 50 - (width if value < 0 else 0) if signed else 0
        bars.append({"name": names[k], "start": start, "width": width, "value": write(value)})
    return bars


def _percent(value: float) -> str:
    return "< 1 %" if 0 < value < 0.01 else f"{100 * value:.0f} %"


def _number(value: float) -> str:
    # Plus 0.0, as -0.00 would say too much.
    return f"{round(value, 2) + 0.0:.2f}" if abs(value) < 100 else f"{value:.3g}"
