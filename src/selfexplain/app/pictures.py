"""Pictures inside the page as PNG data URIs: drawn as in the report, but larger.

Shape suffixes: C channels, H and W space.
"""

from torch import Tensor

from selfexplain.report.html.pixels import png_uri
from selfexplain.report.overlay import image_pixels, map_pixels

LARGEST = 128
"""Side of a drawn map in pixels; finer maps are averaged, for they are shown no larger."""


def image_uri(image_CHW: Tensor, *, grey: bool = False) -> str:
    """A uint8 image (C, H, W) of one or three channels as a data URI, in its own size.

    Args:
        image_CHW: uint8.
        grey: in pale grey, to lay maps on.

    Example:
        >>> import torch
        >>> image_uri(torch.zeros(1, 8, 8, dtype=torch.uint8))[:22]
        'data:image/png;base64,'
    """
    return png_uri(image_pixels(image_CHW, grey=grey, side=max(image_CHW.shape[1:])))


def map_uri(map_HW: Tensor, scale: float) -> str:
    """A signed map as a transparent layer, at the map's resolution; the browser enlarges it.

    Args:
        map_HW: of one class.
        scale: the value that is drawn in full strength.

    Example:
        >>> import torch
        >>> map_uri(torch.zeros(2, 2), 1.0)[:22]
        'data:image/png;base64,'
    """
    return png_uri(map_pixels(map_HW, scale, side=LARGEST))
