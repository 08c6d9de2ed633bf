"""Pictures inside the page: tensors become PNG data URIs.

Shape suffixes: C channels, H and W space.
"""

import base64
import io

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

FOR_RGB = (178, 24, 43)
AGAINST_RGB = (33, 102, 172)
"""Red speaks for a class, blue against it: the ends of matplotlib's RdBu, as in `explain`."""
OPACITY = 0.85
"""Of the strongest place; a place without evidence is clear."""
LARGEST = 128
"""Side of a drawn map in pixels; finer maps are averaged, for they are shown no larger."""
DARKEST = 90
"""Grey that black becomes under a map: on black, blue would not be seen."""


def image_uri(image_CHW: Tensor) -> str:
    """A uint8 image (C, H, W) of one or three channels as a data URI.

    Example:
        >>> image_uri(torch.zeros(1, 8, 8, dtype=torch.uint8))[:22]
        'data:image/png;base64,'
    """
    return _uri(image_CHW)


def grey_uri(image_CHW: Tensor) -> str:
    """The same in grey, its dark parts made lighter, to lay maps on.

    Example:
        >>> grey_uri(torch.zeros(3, 8, 8, dtype=torch.uint8))[:22]
        'data:image/png;base64,'
    """
    grey_1HW = image_CHW.float().mean(dim=0, keepdim=True)
    return _uri((DARKEST + grey_1HW * (1 - DARKEST / 255)).round().to(torch.uint8))


def map_uri(map_HW: Tensor, scale: float) -> str:
    """A signed map as a transparent layer, at the map's resolution; the browser enlarges it.

    Args:
        map_HW: of one class.
        scale: the value that is drawn in full strength.

    Example:
        >>> map_uri(torch.zeros(2, 2), 1.0)[:22]
        'data:image/png;base64,'
    """
    if max(map_HW.shape) > LARGEST:
        height, width = (min(side, LARGEST) for side in map_HW.shape)
        map_HW = F.adaptive_avg_pool2d(map_HW[None, None], (height, width))[0, 0]
    return _uri(tinted(map_HW, scale))


def tinted(map_HW: Tensor, scale: float) -> Tensor:
    """The layer of `map_uri` as uint8 (4, H, W): red, green, blue, opacity.

    Example:
        >>> tinted(torch.tensor([[2.0, -1.0]]), 2.0)[:, 0].T.tolist()
        [[178, 24, 43, 217], [33, 102, 172, 108]]
    """
    strength_HW = (map_HW.float() / scale).clamp(-1, 1)
    colours = torch.tensor([AGAINST_RGB, FOR_RGB], dtype=torch.uint8)
    rgb_3HW = colours[(strength_HW > 0).long()].permute(2, 0, 1)
    opacity_1HW = (strength_HW.abs() * OPACITY * 255).round().to(torch.uint8)[None]
    return torch.cat([rgb_3HW, opacity_1HW])


def _uri(pixels_CHW: Tensor) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels_CHW.permute(1, 2, 0).squeeze(2).contiguous().numpy()).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
