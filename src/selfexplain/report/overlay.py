"""Images and class maps as small pictures for a page: the report's and the app's.

Shape suffixes: C channels, H and W space, B images, R shown classes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RED, BLUE = (202, 0, 32), (5, 80, 174)
"""For the class, against it; told apart by the colour-blind too."""
STRONG = 0.8
"""Opacity where a map is greatest."""
PALE = 110
"""What black becomes in pale grey."""
IMAGE_SIDE, MAP_SIDE = 96, 48
"""Most pixels of a side that the report keeps."""


def map_pixels(map_HW: Tensor, scale: float, *, side: int = MAP_SIDE) -> np.ndarray:
    """A class map as RGBA (H, W, 4), uint8: red for the class, blue against, clear at 0.

    Args:
        map_HW: a class map.
        scale: the absolute value that is drawn strongest, above 0.
        side: most pixels of a side; means over areas make finer maps smaller.

    Example:
        >>> map_pixels(torch.tensor([[1.0, -1.0, 0.0]]), 1.0)[0].tolist()
        [[202, 0, 32, 204], [5, 80, 174, 204], [5, 80, 174, 0]]
    """
    small_HW = shrunk(map_HW[None].float(), side)[0]
    share_HW = (small_HW / scale).clamp(-1, 1)
    colour_HW3 = torch.where((share_HW > 0)[..., None], torch.tensor(RED), torch.tensor(BLUE))
    alpha_HW1 = (share_HW.abs() * STRONG * 255).round()[..., None]
    pixels: np.ndarray = torch.cat([colour_HW3, alpha_HW1], dim=-1).byte().numpy()
    return pixels


def image_pixels(image_CHW: Tensor, *, grey: bool = False, side: int = IMAGE_SIDE) -> np.ndarray:
    """A uint8 image (C, H, W) as (H, W, C).

    Args:
        image_CHW: uint8.
        grey: in pale grey, over which the colours of a map are seen where the image is dark too.
        side: most pixels of a side; means over areas make larger images smaller.

    Example:
        >>> image_pixels(torch.zeros(3, 200, 100, dtype=torch.uint8), grey=True).shape
        (96, 48, 1)
    """
    image = shrunk(image_CHW.float(), side)
    if grey:
        image = PALE + (1 - PALE / 255) * image.mean(dim=0, keepdim=True)
    pixels: np.ndarray = image.round().byte().permute(1, 2, 0).contiguous().numpy()
    return pixels


def shrunk(x_CHW: Tensor, side: int) -> Tensor:
    """Means over areas, so that no side is longer than `side`; what is small enough stays.

    Example:
        >>> shrunk(torch.zeros(1, 4, 2), 2).shape
        torch.Size([1, 2, 1])
    """
    height, width = x_CHW.shape[1:]
    factor = side / max(height, width)
    if factor >= 1:
        return x_CHW
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return F.interpolate(x_CHW[None].float(), size=size, mode="area")[0]
