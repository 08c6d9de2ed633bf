"""What stands in for pixels that are taken away (B batch, C channels, H W space)."""

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR = 1 / 8
"""Standard deviation of the blur as a share of the shorter side: our choice."""


def mean_baseline(x_BCHW: Tensor) -> Tensor:
    """Each image's own mean colour, everywhere.

    Example:
        >>> mean_baseline(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])).unique()
        tensor([1.5000])
    """
    return x_BCHW.mean((2, 3), keepdim=True).expand_as(x_BCHW)


def blur_baseline(x_BCHW: Tensor) -> Tensor:
    """Each image blurred by a Gaussian of an eighth of its shorter side, mirrored at the edges.

    Example:
        >>> blur_baseline(torch.ones(1, 3, 16, 16)).sub(1).abs().max() < 1e-6
        tensor(True)
    """
    sigma = BLUR * min(x_BCHW.shape[2:])
    radius = min(int(3 * sigma), min(x_BCHW.shape[2:]) - 1)
    place = torch.arange(-radius, radius + 1, device=x_BCHW.device, dtype=x_BCHW.dtype)
    weight = (-place.square() / (2 * sigma**2)).exp()
    weight = (weight / weight.sum()).expand(x_BCHW.shape[1], 1, 1, -1)
    channels = x_BCHW.shape[1]
    padded = F.pad(x_BCHW, (radius, radius, radius, radius), mode="reflect")
    rows = F.conv2d(padded, weight, groups=channels)
    return F.conv2d(rows, weight.transpose(2, 3), groups=channels)
