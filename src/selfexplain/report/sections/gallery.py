"""What the explanations of a few images look like while a model learns.

Shape suffixes: B images, R shown classes, K classes, H and W space.
"""

from collections.abc import Sequence
from typing import Any

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


def gallery_section(record: Record | None, why: str = "") -> Section:
    """Image, maps of the true class and of its three rivals, and soft target, over the epochs.

    Args:
        record: the run to show; None if no run has snapshots.
        why: this run, as text.

    Example:
        >>> gallery_section(None).body[:36]
        'The runs have no recorded explanatio'
    """
    title = "What the model explains to itself"
    if record is None or record.snapshots is None or not record.snapshots.after_epochs:
        return Section(title, NOTHING)
    snapshots = record.snapshots
    height, width = snapshots.images_BCHW.shape[2:]
    body = render(
        "gallery.html",
        record=record,
        why=why,
        backgrounds=_backgrounds(snapshots, record.photographs),
        captions=[
            f"after epoch {snapshot.epoch} of {snapshots.planned_epochs}"
            for snapshot in snapshots.after_epochs
        ],
        frames=[
            _frame(snapshots, snapshot, record.class_names) for snapshot in snapshots.after_epochs
        ],
        ratio=f"aspect-ratio:{width}/{height}",
        tile_width=TILE,
    )
    return Section(title, body)


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


def _frame(
    snapshots: Snapshots, snapshot: EpochSnapshot, names: Sequence[str]
) -> list[dict[str, Any]]:
    labels = snapshots.labels_B[:MOST_IMAGES].tolist()
    return [_explained(i, true, snapshot, names) for i, true in enumerate(labels)]


def _explained(i: int, true: int, snapshot: EpochSnapshot, names: Sequence[str]) -> dict[str, Any]:
    """What is said of one image."""
    probability_K = snapshot.probabilities_BK[i]
    answer = int(probability_K.argmax())
    maps_RHW, classes = snapshot.maps_BRHW[i], snapshot.classes_BR[i].tolist()
    scale = float(maps_RHW.abs().max()) or 1.0
    return {
        "true": names[true],
        "predicted": f"{names[answer]}, {100 * float(probability_K[answer]):.0f} %",
        "verdict": "right" if answer == true else "wrong",
        "maps": [
            {"name": names[k], "pixels": map_pixels(map_HW, scale)}
            for k, map_HW in zip(classes, maps_RHW, strict=True)
        ],
        "target": _shares(snapshot.target_BK[i], classes[1:], names),
    }


def _shares(
    target_K: Tensor, rivals: Sequence[int], names: Sequence[str]
) -> list[tuple[str, float]]:
    """The soft target of the rivals, and of all other classes together."""
    shares = [(names[k], float(target_K[k])) for k in rivals]
    rest = max(0.0, float(target_K.sum()) - sum(share for _, share in shares))
    return [*shares, ("all others", rest)] if len(target_K) > len(rivals) + 1 else shares
