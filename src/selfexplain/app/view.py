"""What the page shows of an explanation, as HTML; everything from outside is escaped.

Shape suffixes: C channels, H and W space, K classes.
"""

from collections.abc import Callable, Sequence
from html import escape

from torch import Tensor

from selfexplain.app.explain import Explanation
from selfexplain.report.html import image_pixels, map_pixels, png_uri

# Numbers of named classes as bars, in HTML.


def bars(
    label: str,
    rows: Sequence[tuple[str, float]],
    *,
    tone: str,
    write: Callable[[float], str],
    full: float | None = None,
) -> str:
    """Bars as a list, `full` the value of a whole one; zero is in the middle if one is negative.

    The label is for screen readers; `tone` is a class of the style sheet.
    """
    full = full or max((abs(value) for _, value in rows), default=0.0) or 1.0
    signed = any(value < 0 for _, value in rows)
    items = "".join(_bar(name, value / full, write(value), signed) for name, value in rows)
    return f'<ul class="sx-bars sx-{tone}" aria-label="{escape(label)}">{items}</ul>'


def _bar(name: str, share: float, text: str, signed: bool) -> str:
    width = 100 * min(1.0, abs(share)) / (2 if signed else 1)
    start = 50 - (width if share < 0 else 0) if signed else 0
    return (
        f'<li><span class="sx-name" title="{escape(name)}">{escape(name)}</span>'
        f'<span class="sx-track" aria-hidden="true">'
        f'<i style="left:{start:.1f}%;width:{width:.1f}%"></i></span>'
        f'<span class="sx-value">{escape(text)}</span></li>'
    )


# Pictures inside the page as PNG data URIs: drawn as in the report, but larger.


LARGEST = 128
"""Side of a drawn map in pixels; finer maps are averaged, for they are shown no larger."""


def image_uri(image_CHW: Tensor, *, grey: bool = False) -> str:
    """A uint8 image (C, H, W) as a data URI, in its own size; in pale grey to lay maps on."""
    return png_uri(image_pixels(image_CHW, grey=grey, side=max(image_CHW.shape[1:])))


def map_uri(map_HW: Tensor, scale: float) -> str:
    """A signed map as a transparent layer, at the map's resolution; the browser enlarges it.

    `scale` is the value drawn in full strength.
    """
    return png_uri(map_pixels(map_HW, scale, side=LARGEST))


TOP = 5
"""Bars of the prediction, of the similarities and of the soft target."""
CRISP = 64
"""Images below this size in pixels are enlarged without smoothing."""


def explanation_html(explanation: Explanation, *, maps: int) -> str:
    """Everything that is shown of one image and one run, with its strongest class maps."""
    return (
        '<div class="sx-run"><div class="sx-two">'
        f"{_picture(explanation)}{_prediction(explanation)}</div>"
        f"{_maps(explanation, maps)}"
        f'<div class="sx-two">{_similarity(explanation)}{_target(explanation)}</div></div>'
    )


def error_html(sentence: str) -> str:
    """One sentence of what was wrong and what to pass instead.

    Example:
        >>> error_html("x < 1; pass 1")
        '<p class="sx-error" role="alert">x &lt; 1; pass 1</p>'
    """
    return f'<p class="sx-error" role="alert">{escape(sentence)}</p>'


def run_html(name: str, spec: str) -> str:
    """The heading of a run: its folder's name and its objective."""
    return f'<h2 class="sx-name-of-run">{escape(name)} <span>{escape(spec)}</span></h2>'


def classes_html(names: Sequence[str], classes: Sequence[tuple[str, ...]]) -> str:
    """How the classes of two runs differ; empty if they do not."""
    if len(classes) < 2 or set(classes[0]) == set(classes[1]):
        return ""
    parts = []
    for name, own, other in zip(names, classes, reversed(classes), strict=True):
        alone = [each for each in own if each not in set(other)]
        if alone:
            more = f" and {len(alone) - TOP} more" if len(alone) > TOP else ""
            parts.append(f"only {name} knows {', '.join(alone[:TOP])}{more}")
    return (
        f'<p class="sx-note">The two runs know different classes: {escape("; ".join(parts))}. '
        "Probabilities and maps of the two compare only with that in mind.</p>"
    )


def by_strength(maps_KHW: Tensor) -> list[int]:
    """Classes by how much speaks for them: the mean over the map's places of its positive part."""
    order: list[int] = maps_KHW.relu().mean(dim=(1, 2)).argsort(descending=True).tolist()
    return order


def _picture(explanation: Explanation) -> str:
    channels, height, width = explanation.image_CHW.shape
    colours = "grey" if channels == 1 else "colour"
    return (
        f'<figure class="sx-picture"><img class="{_crispness(explanation)}" '
        f'src="{image_uri(explanation.image_CHW)}" alt="the image as the model sees it">'
        f"<figcaption>As the model sees it: {height} x {width} pixels, {colours}</figcaption>"
        "</figure>"
    )


def _prediction(explanation: Explanation) -> str:
    p_K, k = explanation.probability_K, explanation.predicted
    rows = _named(explanation, p_K, p_K.argsort(descending=True).tolist()[:TOP])
    drawn = bars("probabilities", rows, tone="plain", write=_percent, full=1.0)
    name = escape(explanation.class_names[k])
    return (
        f'<section><h3>Prediction</h3><p class="sx-answer">{name} '
        f"<span>{_percent(float(p_K[k]))}</span></p>{drawn}</section>"
    )


def _maps(explanation: Explanation, count: int) -> str:
    maps_KHW = explanation.maps_KHW
    scale = float(maps_KHW.abs().max()) or 1.0
    order = by_strength(maps_KHW)
    height, width = maps_KHW.shape[1:]
    tiles = "".join(_tile(explanation, k, scale) for k in order[:count])
    picture = f"--sx-picture:url({image_uri(explanation.image_CHW, grey=True)})"
    shown = "every class" if count >= len(order) else f"{count} of {len(order)} classes"
    return (
        f"<section><h3>Maps of {shown}</h3><p class='sx-hint'>Red speaks for the class, blue "
        "against it; all on one scale, the class with the most that speaks for it first. "
        f"{height} x {width} places.</p>"
        f'<ul class="sx-maps {_crispness(explanation)}" style="{picture}">{tiles}</ul></section>'
    )


def _tile(explanation: Explanation, k: int, scale: float) -> str:
    name = escape(explanation.class_names[k])
    uri = map_uri(explanation.maps_KHW[k], scale)
    return (
        f'<li><span class="sx-map"><img src="{uri}" alt="map of {name}"></span>'
        f'<span class="sx-name" title="{name}">{name}</span>'
        f'<span class="sx-value">{_percent(float(explanation.probability_K[k]))}</span></li>'
    )


def _similarity(explanation: Explanation) -> str:
    s_K = explanation.similarity_K
    rows = _named(explanation, s_K, _others(explanation, s_K))
    name = escape(explanation.class_names[explanation.predicted])
    measure = escape(explanation.measure.replace("_", " "))
    drawn = bars("similarities", rows, tone="similar", write=_number)
    return (
        f"<section><h3>Similar explanations</h3><p class='sx-hint'>How alike a class's explanation "
        f"is to that of {name} ({measure})</p>{drawn}</section>"
    )


def _target(explanation: Explanation) -> str:
    q_K = explanation.target_K
    rows = _named(explanation, q_K, _others(explanation, q_K))
    name = escape(explanation.class_names[explanation.predicted])
    told = (
        f"What this run teaches itself of images of {name} that look like this"
        if explanation.own
        else f"What the model would train itself on with these maps if {name} were correct"
    )
    drawn = bars("soft target", rows, tone="target", write=_percent, full=1.0)
    return f"<section><h3>Soft target</h3><p class='sx-hint'>{told}</p>{drawn}</section>"


def _others(explanation: Explanation, values_K: Tensor) -> list[int]:
    """The classes of the greatest values, without the explained one."""
    order: list[int] = values_K.argsort(descending=True, stable=True).tolist()
    return [k for k in order if k != explanation.predicted][:TOP]


def _named(explanation: Explanation, values_K: Tensor, ks: list[int]) -> list[tuple[str, float]]:
    return [(explanation.class_names[k], float(values_K[k])) for k in ks]


def _crispness(explanation: Explanation) -> str:
    return "sx-crisp" if max(explanation.image_CHW.shape[1:]) < CRISP else "sx-smooth"


def _percent(value: float) -> str:
    return "< 1 %" if 0 < value < 0.01 else f"{100 * value:.0f} %"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"
