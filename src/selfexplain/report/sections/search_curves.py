"""The curves of a search's report: losses, operation weights, what was shown to the audience.

Shape suffixes: B images, C channels, H and W space.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfexplain.report.figures import architecture_figure
from selfexplain.report.html import FRAMES, figure, for_both_themes, linspace_indices, render
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


def alphas_tables(record: SearchRecord) -> list[dict[str, Any]]:
    """The raw alphas after the last epoch, a table for each cell, with the weights of edges.

    Returns:
        What `table` takes; empty where no alphas were recorded.

    Example:
        >>> alphas_tables(SearchRecord(config={"method": "random_search"}))
        []
    """
    last = record.history[-1] if record.history else {}
    if record.config["method"] == "random_search" or "alphas" not in last:
        return []
    family = from_string(last["genotype"]).family
    return [
        _alphas_of(name, rows, last["alphas"].get(f"{name}_edges"), family)
        for name, rows in last["alphas"].items()
        if name in FAMILIES[family].cells
    ]


def _alphas_of(
    cell: str, rows: Sequence[Sequence[float]], edges: Sequence[float] | None, family: str
) -> dict[str, Any]:
    header = ["edge", *FAMILIES[family].operations, *([] if edges is None else ["edge's own"])]
    body = [
        [f"{source} → {target}", *(f"{alpha:.3f}" for alpha in row)]
        for (source, target), row in zip(edges_of(family), rows, strict=True)
    ]
    for row, weight in zip(body, edges or (), strict=edges is not None):
        row.append(f"{weight:.3f}")
    name = "cell" if cell == "cell" else f"{cell} cell"
    caption = f"{name}: raw alphas after the last epoch"
    return {"header": header, "rows": body, "caption": caption}


# The curves of a search: what its operations weigh, and how its levels learn.


NO_EPOCH = "No epoch has ended yet."


def alphas_part(record: SearchRecord) -> Markup | str:
    """The softmax of the alphas over the epochs, an edge a panel, and the raw ones at the end.

    Example:
        >>> alphas_part(SearchRecord(config={"method": "random"}))
        'No epoch has ended yet.'
    """
    lines = record.history
    if not lines:
        return NO_EPOCH
    operations = FAMILIES[from_string(lines[0]["genotype"]).family].operations
    return render(
        "search_alphas.html",
        method=record.config["method"],
        weights=_weights_are(record),
        charts=[_weights_of(cell, lines, operations) for cell in lines[0]["weights"]],
        tables=alphas_tables(record),
    )


def _weights_are(record: SearchRecord) -> str:
    """Of what, in the words of the base."""
    base = record.config.get("base", {}).get("base", "plain")
    drawn = base in ("drnas", "drnas_progressive")
    return "in the mean of their distribution" if drawn else "the softmax of the alphas"


def _weights_of(
    cell: str, lines: Sequence[Mapping[str, Any]], operations: Sequence[str]
) -> dict[str, Any]:
    """The figure of one cell, and its width in CSS pixels: it scrolls rather than shrinks."""
    drawn = architecture_figure([{cell: line["weights"][cell]} for line in lines], operations)
    label = f"{cell}: weights of the operations on each edge over {len(lines)} epochs"
    svg = for_both_themes(figure(drawn, label))
    return {"svg": svg, "label": label, "width": 96 * drawn.get_figwidth()}


def losses_part(record: SearchRecord) -> Markup | str:
    """The losses of the levels, and the supernet's accuracy, over the epochs.

    Example:
        >>> losses_part(SearchRecord(config={"method": "random"}))
        'No epoch has ended yet.'
    """
    if not record.history:
        return NO_EPOCH
    levels = [line["losses"] for line in record.history]
    return render(
        "search_losses.html",
        explains=record.explains,
        saliency=record.explains and record.config["options"]["control"] == "saliency",
        warms_up="validation" not in levels[0] and "validation" in levels[-1],
        charts={
            title: for_both_themes(figure(drawn, f"{title}, by epoch"))
            for title, drawn in level_figures(record.history).items()
        },
    )


SIZE = 132
"""Width of an image on the page, in CSS pixels."""
PAGE_BYTES = 6_000_000
"""What the pictures may weigh in all: large images are shown at fewer epochs."""
SHOWN = {
    "product": ("x · δ / ε", "The audience sees each pixel of x times δ / ε."),
    "magnitude": ("x · |δ| / max|δ|", "The audience sees each pixel of x times |δ| / max|δ|."),
    "emphasis": ("x · (1 + |δ| / ε)", "The audience sees each pixel of x times 1 + |δ| / ε."),
    "soft_mask": (
        "x · mask",
        "The audience sees x where its evidence lies above the image's median, and fades to the "
        "images' mean below.",
    ),
}
"""The option `shown` -> its formula, and in words."""
CONTROLS = {
    "random_delta": "This search is a control: δ is random noise.",
    "shuffled_delta": "This search is a control: the pixels of δ are shuffled in each image.",
    "saliency": "This search is a control: δ is plain saliency.",
}


def snapshots_part(record: SearchRecord) -> Markup | str:
    """The snapshots by a slider over the epochs; a sentence where there is none.

    Example:
        >>> config = {"method": "lease", "options": {"shown": "product", "control": "none"}}
        >>> snapshots_part(SearchRecord(config=config))[:36]
        'This search has no recorded explanat'
    """
    snapshots, options = record.snapshots, record.config["options"]
    if snapshots is None or not snapshots.epochs:
        return (
            "This search has no recorded explanations: no epoch has ended yet, or an older version "
            "of selfexplain made it."
        )
    formula, words = SHOWN[options["shown"]]
    explanation = options.get("explanation", "attack")
    name = "δ" if explanation == "attack" else "e"
    epochs = sorted(snapshots.epochs)
    chosen = [epochs[index] for index in linspace_indices(len(epochs), _frames_of(snapshots))]
    largest = max(float(np.abs(snapshots.epochs[n].delta_BCHW).max()) for n in epochs)
    low, high = _range(snapshots)
    return render(
        "search_snapshots.html",
        words=words,
        control=CONTROLS.get(options["control"], ""),
        captions=[f"after epoch {n} of {record.config['epochs']}" for n in chosen],
        frames=[
            _frame(snapshots, snapshots.epochs[n], (name, formula), largest, (low, high))
            for n in chosen
        ],
        size=SIZE,
        explanation=explanation.replace("_", " "),
        largest=f"{255 * largest:.1f}",
        eps=f"{255 * options['eps']:.1f}",
        formula=formula,
        low=f"{low:.2f}",
        high=f"{high:.2f}",
    )


def _frames_of(snapshots: SearchSnapshots) -> int:
    """As many frames as the page can bear; noise is as large in a PNG as it is raw."""
    frame = 4 * snapshots.images_BCHW.size  # three pictures, and a third more in base64
    return max(2, min(FRAMES, PAGE_BYTES // max(1, frame)))


def _range(snapshots: SearchSnapshots) -> tuple[float, float]:
    """Of all that is shown, and of an image at least."""
    shown = [explained.explained_BCHW for explained in snapshots.epochs.values()]
    return min(0.0, *(float(s.min()) for s in shown)), max(1.0, *(float(s.max()) for s in shown))


def _frame(
    snapshots: SearchSnapshots,
    explained: Explained,
    names: tuple[str, str],
    largest: float,
    limits: tuple[float, float],
) -> list[dict[str, Any]]:
    """What is shown of each image after an epoch; names of the explanation, and of what is seen."""
    (low, high), (name, formula) = limits, names
    return [
        {
            "label": label,
            "pictures": {
                "x": _pixels(image_CHW),
                name: _pixels(_grey_levels(delta_CHW, -largest, largest)),
                formula: _pixels(_grey_levels(explained_CHW, low, high)),
            },
        }
        for label, image_CHW, delta_CHW, explained_CHW in zip(
            snapshots.labels,
            snapshots.images_BCHW,
            explained.delta_BCHW,
            explained.explained_BCHW,
            strict=True,
        )
    ]


def _grey_levels(values_CHW: np.ndarray, low: float, high: float) -> np.ndarray:
    """Low becomes 0, high 255."""
    share = (values_CHW - low) / max(high - low, 1e-12)
    levels: np.ndarray = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
    return levels


def _pixels(image_CHW: np.ndarray) -> np.ndarray:
    """(H, W, C); of channels that cannot be drawn as colours, the first."""
    drawable = image_CHW if len(image_CHW) in (1, 3, 4) else image_CHW[:1]
    return drawable.transpose(1, 2, 0)
