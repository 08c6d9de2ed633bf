"""Where the evidence of a map lies: shared with another map, or in a ring at the image's border.

Evidence is the positive part of a map. Shape suffixes: B images, H and W space.
"""

import torch
from torch import Tensor

from selfexplain.errors import InputError

RING = 1 / 8
"""Width of the ring, in sides of the image."""
FAINT = 0.1
"""Share of an image's strongest evidence below which there is hardly any."""


def evidence(map_BHW: Tensor) -> Tensor:
    """Share of each place in the positive part of its map, (B, H, W); 0 where there is none."""
    positive_BHW = map_BHW.double().clamp_min(0)
    sum_B11 = positive_BHW.sum(dim=(1, 2), keepdim=True)
    return (positive_BHW / sum_B11.where(sum_B11 > 0, 1)).to(map_BHW.dtype)


def evidence_overlap(a_BHW: Tensor, b_BHW: Tensor) -> Tensor:
    """How far two maps read the same places, (B,): the sum over places of the smaller share.

    1 if the positive parts are proportional, 0 if no place is positive in both; 1 less the total
    variation distance of the two.

    Raises:
        InputError: the shapes differ, or are not (B, H, W).

    Example:
        >>> a = torch.tensor([[[3.0, 1.0, -9.0]]])
        >>> evidence_overlap(a, 2 * a), evidence_overlap(a, torch.tensor([[[0.0, 1.0, 3.0]]]))
        (tensor([1.]), tensor([0.2500]))
    """
    if a_BHW.shape != b_BHW.shape or a_BHW.dim() != 3:
        raise InputError(
            f"the maps are of shapes {tuple(a_BHW.shape)} and {tuple(b_BHW.shape)}; "
            "pass two tensors (B, H, W)"
        )
    return torch.minimum(evidence(a_BHW), evidence(b_BHW)).sum(dim=(1, 2))


def is_faint(maps_BRHW: Tensor, faint: float = FAINT) -> Tensor:
    """Whether hardly anything speaks for a class, (B, R): none of it is a share of the strongest.

    Args:
        maps_BRHW: maps of several classes of each image.
        faint: the share of the image's greatest absolute value below which evidence is faint.

    Example:
        >>> is_faint(torch.tensor([[[[1.0, -1.0]], [[0.05, -9.0]]]]))
        tensor([[False,  True]])
    """
    scale_B1 = maps_BRHW.abs().amax(dim=(1, 2, 3))[:, None]
    most_BR = maps_BRHW.amax(dim=(2, 3))
    return (most_BR <= 0) | (most_BR < faint * scale_B1)


def ring_area(ring: float = RING) -> float:
    """Share of an image's area that lies nearer to its border than `ring` sides."""
    return 1 - (1 - 2 * ring) ** 2


def ring_share(map_BHW: Tensor, ring: float = RING) -> Tensor:
    """Share of the evidence that lies in the ring at the border, (B,); NaN where there is none.

    A place of a coarse map counts by the part of its area that lies in the ring. Evenly spread
    evidence has `ring_area` there.
    """
    height, width = map_BHW.shape[1:]
    inner_HW = torch.outer(_inside(height, ring), _inside(width, ring)).to(map_BHW)
    share_BHW = evidence(map_BHW)
    share_B = (share_BHW * (1 - inner_HW)).sum(dim=(1, 2))
    return share_B.where(share_BHW.sum(dim=(1, 2)) > 0, torch.nan)


def _inside(count: int, ring: float) -> Tensor:
    """Part of each of `count` equal pieces of [0, 1] that lies in [ring, 1 - ring]."""
    edges = (torch.arange(count + 1, dtype=torch.float64) / count).clamp(ring, 1 - ring)
    return edges.diff() * count
