"""The curves of a search's report: losses, operation weights, what was shown to the audience.

Shape suffixes: B images, C channels, H and W space.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfexplain.report.figures import architecture_figure
from selfexplain.report.html import (
    FRAMES,
    escape,
    figure,
    for_both_themes,
    image,
    linspace_indices,
    paragraph,
    scroll,
    slider,
    table,
)
from selfexplain.report.sections.search_record import Explained, SearchRecord, SearchSnapshots
from selfexplain.report.style import STYLES
from selfexplain.spaces import FAMILIES, from_string
from selfexplain.spaces.genotype import edges_of

# How the losses of a search's levels went, and its supernet's accuracy.


TITLES = {
    "explainer": "I. The explainer learns",
    "delta": "II. The explainer explains",
    "audience": "III. The audience learns",
    "validation": "IV. The explainer re-learns",
}
"""Level of learning by self-explanation -> what happens in it."""
PLAIN = {"explainer": "The weights learn", "validation": "The architecture learns"}
"""The same for a search without explanations."""
LINE = STYLES["nor_conv_1x1"].light
STEPS = ("-", "--", ":", "-.")
"""How the steps of the explanation are told apart."""


def level_figures(history: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """A small figure for each level's loss (mean over an epoch, nats), then of the accuracy.

    Args:
        history: lines of `search.jsonl`; an epoch in which a level had no loss (as that of the
            architecture in a warm-up, or where no step was finite) leaves a gap.

    Returns:
        Title -> figure; levels that the search has not are left out.

    Example:
        >>> line = {"epoch": 1, "losses": {"explainer": 2.3}, "validation_accuracy": 10.0}
        >>> list(level_figures([line]))
        ['The weights learn', 'The supernet on held-out images']
    """
    names = {name for line in history for name in line["losses"]}
    figures = {}
    for level, title in (TITLES if "audience" in names else PLAIN).items():
        steps = sorted((name for name in names if name.startswith(level)), key=_number)
        if steps:
            series = {s: [line["losses"].get(s) for line in history] for s in steps}
            figures[title] = _figure(history, series, "loss")
    accuracies = [line["validation_accuracy"] for line in history]
    title = "The supernet on held-out images"
    figures[title] = _figure(history, {"accuracy": accuracies}, "accuracy, %")
    return figures


def _number(name: str) -> int:
    """Of a step of the explanation: delta_10 comes after delta_9."""
    return int(name.rpartition("_")[2]) if "_" in name else 0


def _figure(
    history: Sequence[Mapping[str, Any]], series: Mapping[str, Sequence[float | None]], unit: str
) -> Figure:
    figure = Figure(figsize=(3.6, 2.1), layout="constrained")
    axes = figure.subplots()
    epochs = [line["epoch"] for line in history]
    for index, (name, values) in enumerate(series.items()):
        gaps = [float("nan") if value is None else value for value in values]
        axes.plot(
            epochs,
            gaps,
            label=name.replace("delta_", "step "),
            marker=".",
            color=LINE,
            linestyle=STEPS[index % len(STEPS)],
            linewidth=1.6,
        )
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel(unit, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False)
    return figure


# The raw numbers of an architecture, as tables.


def alphas_table(record: SearchRecord) -> str:
    """The raw alphas after the last epoch, folded away; with the weights of edges, if there are.

    Example:
        >>> alphas_table(SearchRecord(config={"method": "random_search"}))
        ''
    """
    if record.config["method"] == "random_search" or not record.history:
        return ""
    last = record.history[-1]
    if "alphas" not in last:
        return "<p>The raw alphas are missing: the search was made before they were recorded.</p>"
    family = from_string(last["genotype"]).family
    tables = [
        _alphas_of(name, rows, last["alphas"].get(f"{name}_edges"), family)
        for name, rows in last["alphas"].items()
        if name in FAMILIES[family].cells
    ]
    return f"<details><summary>Raw alphas at the end</summary>{''.join(tables)}</details>"


def _alphas_of(
    cell: str, rows: Sequence[Sequence[float]], edges: Sequence[float] | None, family: str
) -> str:
    header = ["edge", *FAMILIES[family].operations, *([] if edges is None else ["edge's own"])]
    body = [
        [f"{source} → {target}", *(f"{alpha:.3f}" for alpha in row)]
        for (source, target), row in zip(edges_of(family), rows, strict=True)
    ]
    for row, weight in zip(body, edges or (), strict=edges is not None):
        row.append(f"{weight:.3f}")
    name = "cell" if cell == "cell" else f"{cell} cell"
    return table(header, body, caption=f"{name}: raw alphas after the last epoch, before softmax")


# The curves of a search: what its operations weigh, and how its levels learn.


def alphas_part(record: SearchRecord) -> str:
    """The softmax of the alphas over the epochs, an edge a panel, and the raw ones at the end.

    Example:
        >>> alphas_part(SearchRecord(config={"method": "random"}))
        '<p>No epoch is finished yet.</p>'
    """
    lines = record.history
    if not lines:
        return paragraph("No epoch is finished yet.")
    operations = FAMILIES[from_string(lines[0]["genotype"]).family].operations
    words = (
        "Softmax of the alphas of each edge (source → target) after each epoch; below, the mean "
        "entropy over the edges: how undecided the architecture still is."
    )
    if record.config["method"] == "random_search":
        words = "The operations of the best cell after each epoch: it is drawn, so each is 1 or 0."
    charts = [_weights_of(cell, lines, operations) for cell in lines[0]["weights"]]
    return paragraph(words) + "".join(charts) + alphas_table(record)


def _weights_of(cell: str, lines: Sequence[Mapping[str, Any]], operations: Sequence[str]) -> str:
    """The figure of one cell, in a frame that scrolls rather than shrink it."""
    drawn = architecture_figure([{cell: line["weights"][cell]} for line in lines], operations)
    alt = f"{cell}: weights of the operations on each edge over {len(lines)} epochs"
    chart = for_both_themes(figure(drawn, alt))
    return scroll(chart, "search-alphas", alt, natural=96 * drawn.get_figwidth())


def losses_part(record: SearchRecord) -> str:
    """The losses of the levels, and the supernet's accuracy, over the epochs.

    Example:
        >>> losses_part(SearchRecord(config={"method": "random"}))
        '<p>No epoch is finished yet.</p>'
    """
    if not record.history:
        return paragraph("No epoch is finished yet.")
    charts = [
        f"<div><h4>{escape(title)}</h4>{for_both_themes(figure(drawn, f'{title}, by epoch'))}</div>"
        for title, drawn in level_figures(record.history).items()
    ]
    return paragraph(_words(record)) + f'<div class="charts search-levels">{"".join(charts)}</div>'


def _words(record: SearchRecord) -> str:
    """What the losses are of."""
    sentences = ["Means over the steps of an epoch; cross-entropies in nats."]
    if record.explains:
        climbed = "its loss"
        if record.config["options"]["control"] == "saliency":
            climbed = "the score of the class that it predicts (which is no cross-entropy)"
        sentences.append(
            f"I to III are of training images. In II the explainer climbs {climbed}. The "
            "audience's loss is that on images and, times gamma, that on explained images. IV "
            "is of held-out images and moves the architecture."
        )
    levels = [line["losses"] for line in record.history]
    if "validation" not in levels[0] and "validation" in levels[-1]:
        sentences.append("In the warm-up the architecture rests.")
    return " ".join(sentences)


SIZE = 132
"""Width of an image on the page, in CSS pixels."""
PAGE_BYTES = 6_000_000
"""What the pictures may weigh in all: large images are shown at fewer epochs."""
SHOWN = {
    "product": ("x · δ / ε", "The audience sees each pixel of x times δ / ε."),
    "magnitude": ("x · |δ| / max|δ|", "The audience sees each pixel of x times |δ| / max|δ|."),
    "emphasis": ("x · (1 + |δ| / ε)", "The audience sees each pixel of x times 1 + |δ| / ε."),
}
"""The option `shown` -> its formula, and in words."""
CONTROLS = {
    "random_delta": "This search is a control: δ is random noise.",
    "shuffled_delta": "This search is a control: the pixels of δ are shuffled in each image.",
    "saliency": "This search is a control: δ is plain saliency.",
}


def snapshots_part(record: SearchRecord) -> str:
    """The album by a slider over the epochs; a sentence where there is none.

    Example:
        >>> config = {"method": "lease", "options": {"shown": "product", "control": "none"}}
        >>> snapshots_part(SearchRecord(config=config))[:36]
        '<p>This search has recorded no expla'
    """
    album, options = record.album, record.config["options"]
    if album is None or not album.epochs:
        return paragraph(
            "This search has recorded no explanations: none of its epochs is finished, or it was "
            "made before searches recorded them."
        )
    formula, words = SHOWN[options["shown"]]
    epochs = sorted(album.epochs)
    chosen = [epochs[index] for index in linspace_indices(len(epochs), _frames_of(album))]
    largest = max(float(np.abs(album.epochs[n].delta_BCHW).max()) for n in epochs)
    low, high = _range(album)
    frames = [_frame(album, album.epochs[n], formula, largest, (low, high)) for n in chosen]
    captions = [f"after epoch {n} of {record.config['epochs']}" for n in chosen]
    notes = [
        f"{words} As in the search, x is normalised first, so that its zero is the mean of the "
        "training images.",
        CONTROLS.get(options["control"], ""),
    ]
    scale = (
        f"δ: grey is no change, black and white are ∓{255 * largest:.1f} / 255 (ε is "
        f"{255 * options['eps']:.1f} / 255). {formula}: drawn as the picture that the audience "
        f"would have to see, from {low:.2f} (black) to {high:.2f} (white), where images go from 0 "
        "to 1. Scales are the same for all epochs."
    )
    return (
        paragraph(" ".join(filter(None, notes)))
        + slider("Epoch", frames, captions)
        + f'<p class="quiet">{escape(scale)}</p>'
    )


def _frames_of(album: SearchSnapshots) -> int:
    """As many frames as the page can bear; noise is as large in a PNG as it is raw."""
    frame = 4 * album.images_BCHW.size  # three pictures, and a third more in base64
    return max(2, min(FRAMES, PAGE_BYTES // max(1, frame)))


def _range(album: SearchSnapshots) -> tuple[float, float]:
    """Of all that is shown, and of an image at least."""
    shown = [explained.explained_BCHW for explained in album.epochs.values()]
    return min(0.0, *(float(s.min()) for s in shown)), max(1.0, *(float(s.max()) for s in shown))


def _frame(
    album: SearchSnapshots,
    explained: Explained,
    formula: str,
    largest: float,
    limits: tuple[float, float],
) -> str:
    low, high = limits
    figures = []
    for index, label in enumerate(album.labels):
        pictures = {
            "x": album.images_BCHW[index],
            "δ": _grey_levels(explained.delta_BCHW[index], -largest, largest),
            formula: _grey_levels(explained.explained_BCHW[index], low, high),
        }
        images = "".join(
            f"<div>{_image(pixels_CHW, f'{what} of an image of class {label}')}"
            f"<span>{escape(what)}</span></div>"
            for what, pixels_CHW in pictures.items()
        )
        figures.append(
            f"<figure><figcaption>class {escape(label)}</figcaption>"
            f'<div class="search-shown">{images}</div></figure>'
        )
    return f'<div class="search-album">{"".join(figures)}</div>'


def _grey_levels(values_CHW: np.ndarray, low: float, high: float) -> np.ndarray:
    """Low becomes 0, high 255."""
    share = (values_CHW - low) / max(high - low, 1e-12)
    levels: np.ndarray = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
    return levels


def _image(pixels_CHW: np.ndarray, alt: str) -> str:
    drawable = pixels_CHW if len(pixels_CHW) in (1, 3, 4) else pixels_CHW[:1]
    return image(drawable.transpose(1, 2, 0), alt, size=SIZE)
