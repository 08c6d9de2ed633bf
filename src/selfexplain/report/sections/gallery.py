"""What the explanations of a few images look like while a model learns.

Shape suffixes: B images, R shown classes, K classes, H and W space.
"""

from collections.abc import Sequence

from torch import Tensor

from selfexplain.report.html import (
    IMAGE_SIDE,
    Section,
    escape,
    image,
    image_pixels,
    jpeg_uri,
    map_pixels,
    paragraph,
    png_uri,
    slider,
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
        record: the run to show; None if no run has an album.
        why: this run, as text.

    Example:
        >>> gallery_section(None).body[:47]
        '<p>The runs have no recorded explanations: no e'
    """
    title = "What the model explains to itself"
    if record is None or record.album is None or not record.album.moments:
        return Section(title, paragraph(NOTHING))
    album, large = record.album, " large" if record.photographs else ""
    frames = [_frame(album, moment, record.class_names) for moment in album.moments]
    captions = [f"after epoch {moment.epoch} of {album.epochs}" for moment in album.moments]
    return Section(
        title,
        paragraph(f"{record.name}{why}. {READING}{record.caution}")
        + f'<div class="gallery{large}" style="{_backgrounds(album, record.photographs)}">'
        + slider("Epoch", frames, captions)
        + "</div>",
    )


NOTHING = (
    "The runs have no recorded explanations: no epoch has ended, no class maps can be "
    "computed for the model, or they were made before selfexplain recorded them."
)
READING = (
    "Each row: an image, the map of its true class, and the maps of the three classes whose "
    "explanations resemble its own most. Red is evidence for a class, blue against it; the maps of "
    "one image share a scale. Bars: the soft target that the model would train itself on."
)


def _backgrounds(album: Snapshots, photographs: bool) -> str:
    """The images as properties of the gallery: each is in the file once, for all its epochs."""
    uri, side = (jpeg_uri, LARGE) if photographs else (png_uri, IMAGE_SIDE)
    uris = [
        (f"--{name}-{i}", uri(image_pixels(image_CHW, grey=name == "grey", side=side)))
        for i, image_CHW in enumerate(album.images_BCHW[:MOST_IMAGES])
        for name in ("image", "grey")
    ]
    return ";".join(f"{name}:url({uri})" for name, uri in uris)


def _frame(album: Snapshots, moment: EpochSnapshot, names: Sequence[str]) -> str:
    return "".join(
        _explained(i, moment, names, album) for i in range(min(MOST_IMAGES, len(album.labels_B)))
    )


def _explained(i: int, moment: EpochSnapshot, names: Sequence[str], album: Snapshots) -> str:
    """One image: tiles in a row, then bars."""
    true = int(album.labels_B[i])
    probability_K = moment.probabilities_BK[i]
    answer = int(probability_K.argmax())
    maps_RHW, classes = moment.maps_BRHW[i], moment.classes_BR[i].tolist()
    scale = float(maps_RHW.abs().max()) or 1.0
    ratio = f"aspect-ratio:{album.images_BCHW.shape[3]}/{album.images_BCHW.shape[2]}"
    says = f"{names[answer]}, {100 * float(probability_K[answer]):.0f} %"
    right = "right" if answer == true else "wrong"
    tiles = [
        _tile(
            f'<div class="stack" role="img" aria-label="{escape(f"image of {names[true]}")}" '
            f'style="background-image:var(--image-{i});{ratio}"></div>',
            names[true],
        ),
        *(_map_tile(i, ratio, maps_RHW[r], scale, names[k]) for r, k in enumerate(classes)),
    ]
    return (
        f'<article><h3>{escape(names[true])} <span class="{right}">predicted: {escape(says)} '
        f'({right})</span></h3><div class="tiles">{"".join(tiles)}</div>'
        f"{_bars(moment.target_BK[i], classes[1:], names)}</article>"
    )


def _map_tile(i: int, ratio: str, map_HW: Tensor, scale: float, name: str) -> str:
    drawn = image(map_pixels(map_HW, scale), f"map of class {name}", size=TILE)
    return _tile(
        f'<div class="stack" style="background-image:var(--grey-{i});{ratio}">{drawn}</div>',
        name,
    )


def _tile(picture: str, name: str) -> str:
    return f'<div class="tile">{picture}<span>{escape(name)}</span></div>'


def _bars(target_K: Tensor, rivals: Sequence[int], names: Sequence[str]) -> str:
    """The soft target of the rivals, and of all other classes together."""
    shares = [(names[k], float(target_K[k])) for k in rivals]
    rest = max(0.0, float(target_K.sum()) - sum(share for _, share in shares))
    if len(target_K) > len(rivals) + 1:
        shares.append(("all others", rest))
    items = "".join(
        f"<li><span>{escape(name)}</span><span>{100 * share:.0f} %</span>"
        f'<span class="bar" aria-hidden="true"><span style="width:{100 * share:.1f}%"></span>'
        "</span></li>"
        for name, share in shares
    )
    return f'<ul class="bars" aria-label="soft target">{items}</ul>'
