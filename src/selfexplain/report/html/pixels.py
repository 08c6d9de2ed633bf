"""Small images inside the page, their pixels left sharp.

Shape suffixes: H and W space, C channels.
"""

import base64
import io

import numpy as np
from PIL import Image

from selfexplain.report.html.text import escape


def image(pixels_HWC: np.ndarray, alt: str, *, size: int) -> str:
    """An image as a PNG in a data URI, drawn with sharp pixels.

    Args:
        pixels_HWC: uint8, with 1 (grey), 3 (RGB) or 4 (RGBA) channels.
        alt: what it shows, as text; "" for decoration.
        size: width on the page in CSS pixels; the height follows.

    Raises:
        ValueError: the array is not of this shape or type.

    Example:
        >>> image(np.zeros((2, 4, 1), np.uint8), "black", size=40).endswith(
        ...     'alt="black" width="40" height="20">')
        True
    """
    height, width, _ = pixels_HWC.shape
    return (
        f'<img class="pixels" src="{png_uri(pixels_HWC)}" alt="{escape(alt)}" '
        f'width="{size}" height="{round(size * height / width)}">'
    )


def png_uri(pixels_HWC: np.ndarray) -> str:
    """The data URI of an image as a PNG.

    Raises:
        ValueError: the array is not uint8 of 1, 3 or 4 channels.

    Example:
        >>> png_uri(np.zeros((1, 1, 3), np.uint8))[:22]
        'data:image/png;base64,'
    """
    if pixels_HWC.dtype != np.uint8 or pixels_HWC.ndim != 3 or pixels_HWC.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"pixels are {pixels_HWC.dtype} of shape {pixels_HWC.shape}; "
            "pass uint8 of shape (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    grey = pixels_HWC.shape[2] == 1
    file = io.BytesIO()
    Image.fromarray(pixels_HWC[:, :, 0] if grey else pixels_HWC).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
