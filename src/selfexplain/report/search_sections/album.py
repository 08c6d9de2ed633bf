"""What the explainer showed the audience: x, delta and x (*) delta of a few images.

Shape suffixes: B images, C channels, H and W space.
"""

import numpy as np

from selfexplain.report.html.evenly import FRAMES, evenly
from selfexplain.report.html.pixels import image
from selfexplain.report.html.slider import slider
from selfexplain.report.html.text import escape, paragraph
from selfexplain.report.search_sections.record import Album, Explained, SearchRecord

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


def album_part(record: SearchRecord) -> str:
    """The album by a slider over the epochs; a sentence where there is none.

    Example:
        >>> config = {"method": "lease", "options": {"shown": "product", "control": "none"}}
        >>> album_part(SearchRecord(config=config))[:36]
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
    chosen = [epochs[index] for index in evenly(len(epochs), _frames_of(album))]
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


def _frames_of(album: Album) -> int:
    """As many frames as the page can bear; noise is as large in a PNG as it is raw."""
    frame = 4 * album.images_BCHW.size  # three pictures, and a third more in base64
    return max(2, min(FRAMES, PAGE_BYTES // max(1, frame)))


def _range(album: Album) -> tuple[float, float]:
    """Of all that is shown, and of an image at least."""
    shown = [explained.explained_BCHW for explained in album.epochs.values()]
    return min(0.0, *(float(s.min()) for s in shown)), max(1.0, *(float(s.max()) for s in shown))


def _frame(
    album: Album,
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
