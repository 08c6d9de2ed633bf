"""What the explanations of a few images look like while a model learns.

Shape suffixes: B images, R shown classes, K classes, H and W space.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from selfexplain.report.html import (
    IMAGE_SIDE,
    Section,
    image_pixels,
    jpeg_uri,
    map_pixels,
    png_uri,
    render,
)
from selfexplain.report.sections.record import EpochSnapshot, Record, Snapshots

MOST_IMAGES = 6
TILE = 104
"""Width of a picture in CSS pixels; that of photographs is set by the page's style."""
LARGE = 192
"""Most pixels of a side that a photograph keeps."""


def gallery_section(record: Record | None, why: str = "", *, series: int = 1) -> Section:
    """Image, maps of the true class and of its three rivals, and soft target, over the epochs.

    Of an image that is wrongly classified, the map of the predicted class stands beside that of
    the true one. Where the soft target has the same values for every image, the similarities that
    it is made of stand in its place.

    Args:
        record: the run to show; None if no run has snapshots.
        why: this run, as text.
        series: number of the colour of its objective (`series_of`).

    Example:
        >>> gallery_section(None).body[:36]
        'The runs have no recorded explanatio'
    """
    title = "What the model explains to itself"
    if record is None or record.snapshots is None or not record.snapshots.after_epochs:
        return Section(title, NOTHING)
    snapshots = record.snapshots
    height, width = snapshots.images_BCHW.shape[2:]
    rivals = snapshots.after_epochs[-1].classes_BR.shape[1] - 1
    targets = torch.cat([snapshot.target_BK for snapshot in snapshots.after_epochs])
    fixed = fixed_shares(targets, rivals)
    body = render(
        "gallery.html",
        record=record,
        why=why,
        series=series,
        backgrounds=_backgrounds(snapshots, record.photographs),
        captions=[
            f"after epoch {snapshot.epoch} of {snapshots.planned_epochs}"
            for snapshot in snapshots.after_epochs
        ],
        frames=[
            _frame(snapshots, snapshot, record.class_names, fixed=fixed is not None)
            for snapshot in snapshots.after_epochs
        ],
        fixed=fixed and [f"{100 * share:.0f}" for share in fixed],
        similar=all(snapshot.similarity_BK is not None for snapshot in snapshots.after_epochs),
        ratio=f"aspect-ratio:{width}/{height}",
        tile_width=TILE,
    )
    return Section(title, body, group=record.name)


NOTHING = (
    "The runs have no recorded explanations: no epoch has ended yet, the model has no class maps, "
    "or an older version of selfexplain made the runs."
)


def _backgrounds(snapshots: Snapshots, photographs: bool) -> list[dict[str, str]]:
    """Each image, and what its maps are laid on."""
    uri, side = (jpeg_uri, LARGE) if photographs else (png_uri, IMAGE_SIDE)
    return [
        {
            "image": uri(image_pixels(image_CHW, side=side)),
            "grey": uri(image_pixels(image_CHW, grey=True, side=side)),
        }
        for image_CHW in snapshots.images_BCHW[:MOST_IMAGES]
    ]


def fixed_shares(target_BK: Tensor, rivals: int) -> list[float] | None:
    """The shares of the likest classes, the likest first, if they are the same for every image.

    A target of ranks has the same values for all: only which class has which tells images apart.

    Example:
        >>> fixed_shares(torch.tensor([[0.0, 0.75, 0.25], [0.25, 0.0, 0.75]]), 2)
        [0.75, 0.25]
        >>> fixed_shares(torch.tensor([[0.0, 0.6, 0.4], [0.3, 0.0, 0.7]]), 2) is None
        True
    """
    sorted_BK = target_BK.sort(dim=1, descending=True).values
    if len(sorted_BK) < 2 or not torch.allclose(sorted_BK, sorted_BK[:1], atol=1e-4):
        return None
    return [float(share) for share in sorted_BK[0, :rivals]]


def _frame(
    snapshots: Snapshots, snapshot: EpochSnapshot, names: Sequence[str], *, fixed: bool
) -> list[dict[str, Any]]:
    labels = snapshots.labels_B[:MOST_IMAGES].tolist()
    return [_explained(i, true, snapshot, names, fixed=fixed) for i, true in enumerate(labels)]


def _explained(
    i: int, true: int, snapshot: EpochSnapshot, names: Sequence[str], *, fixed: bool
) -> dict[str, Any]:
    """What is said of one image."""
    probability_K = snapshot.probabilities_BK[i]
    answer = int(probability_K.argmax())
    maps_RHW, classes = snapshot.maps_BRHW[i], snapshot.classes_BR[i].tolist()
    scale = float(maps_RHW.abs().max()) or 1.0
    # The predicted class beside the true one, where it has a map; runs of older versions have
    # it only among the likest.
    shown = sorted(range(len(classes)), key=lambda r: (r > 0, classes[r] != answer))
    rivals = classes[1:]
    if not fixed:
        bars = _shares(snapshot.target_BK[i], rivals, names)
    elif snapshot.similarity_BK is not None:
        bars = _similarities(snapshot.similarity_BK[i], rivals, names)
    else:
        bars = []
    return {
        "true": names[true],
        "predicted": f"{names[answer]}, {100 * float(probability_K[answer]):.0f} %",
        "verdict": "right" if answer == true else "wrong",
        "without_map": names[answer] if answer not in classes else "",
        "maps": [
            {
                "name": names[classes[r]],
                "role": _role(classes[r], true, answer),
                "pixels": map_pixels(maps_RHW[r], scale),
            }
            for r in shown
        ],
        "bars": bars,
    }


def _role(k: int, true: int, answer: int) -> str:
    """What a class is to an image that is wrongly classified; "" for all else."""
    if answer == true or k not in {true, answer}:
        return ""
    return "true" if k == true else "predicted"


def _shares(
    target_K: Tensor, rivals: Sequence[int], names: Sequence[str]
) -> list[tuple[str, str, float, float]]:
    """The soft target of the rivals, and of all other classes together: name, text, bar."""
    shares = [(names[k], float(target_K[k])) for k in rivals]
    rest = max(0.0, float(target_K.sum()) - sum(share for _, share in shares))
    shares += [("all others", rest)] if len(target_K) > len(rivals) + 1 else []
    return [(name, f"{100 * share:.0f} %", 0.0, share) for name, share in shares]


def _similarities(
    similarity_K: Tensor, rivals: Sequence[int], names: Sequence[str]
) -> list[tuple[str, str, float, float]]:
    """How alike the rivals' explanations are: name, text, where the bar starts and how long it is.

    Zero is in the middle if one of them is below it.
    """
    values = {k: float(similarity_K[k]) for k in rivals}
    full = max(1.0, *map(abs, values.values()))  # a cosine's greatest, where it is one
    half = 0.5 if min(values.values()) < 0 else 1.0
    bars = []
    for k, value in values.items():
        length = half * abs(value) / full
        start = (half - length if value < 0 else half) if half < 1 else 0.0
        bars.append((names[k], f"{round(value, 2) + 0.0:.2f}", start, length))
    return bars
