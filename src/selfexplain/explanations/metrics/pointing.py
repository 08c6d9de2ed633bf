"""The pointing game: whether the highest point of a map lies on the object.

Source: Zhang, Bargal, Lin, Brandt, Shen, Sclaroff, "Top-Down Neural Attention by Excitation
Backprop", IJCV 2018. Shape suffixes: B images, H and W space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from selfexplain.errors import InputError


def pointing_hits(map_BHW: Tensor, boxes: Sequence[Tensor], *, tolerance: float = 0) -> Tensor:
    """Tell for each image whether the maximum of its map lies in one of its boxes.

    Args:
        map_BHW: maps at the images' resolution; of equal maxima the first in reading order counts.
        boxes: for each image (n, 4): x_min, y_min, x_max, y_max in pixels, measured to the edges,
            so that (0, 0, W, H) is the whole image.
        tolerance: pixels by which each box is widened on every side. Published with 15 pixels,
            for photographs of some hundred pixels a side.

    Returns:
        Hits (B,), bool; their mean is the accuracy of the game.

    Raises:
        InputError: there is not one (n, 4) tensor for each image.

    Example:
        >>> maps = torch.zeros(1, 4, 4)
        >>> maps[0, 1, 2] = 1
        >>> pointing_hits(maps, [torch.tensor([[2, 0, 4, 2]])])
        tensor([True])
        >>> pointing_hits(maps, [torch.tensor([[0, 0, 2, 4]])])
        tensor([False])
    """
    if len(boxes) != len(map_BHW) or any(b.dim() != 2 or b.shape[1] != 4 for b in boxes):
        raise InputError(
            f"boxes has {len(boxes)} entries for {len(map_BHW)} maps; pass one tensor (n, 4) of "
            "x_min, y_min, x_max, y_max for each map"
        )
    peak_B = map_BHW.flatten(1).argmax(dim=1).tolist()
    width = map_BHW.shape[2]
    points = [(p % width + 0.5, p // width + 0.5) for p in peak_B]
    hits = [_inside(*point, box, tolerance) for point, box in zip(points, boxes, strict=True)]
    return torch.tensor(hits, dtype=torch.bool, device=map_BHW.device)


def _inside(x: float, y: float, boxes: Tensor, tolerance: float) -> bool:
    low = (boxes[:, 0] - tolerance <= x) & (boxes[:, 1] - tolerance <= y)
    high = (x <= boxes[:, 2] + tolerance) & (y <= boxes[:, 3] + tolerance)
    return bool((low & high).any())
