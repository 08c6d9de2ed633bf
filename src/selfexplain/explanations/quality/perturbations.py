"""Random changes of images, and what a map is multiplied with to foretell their effect.

Numbers are drawn on the CPU, by a generator of one's own, so that they are the same on every
device. Shape suffixes: B images, C channels, H and W space.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .baselines import mean_baseline

Perturbation = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images x_BCHW to weights_BHW and the changed images: one draw for each image."""


def square_removal(side: int, generator: torch.Generator) -> Perturbation:
    """Replace a square at a random place by the image's mean colour; weights: 1 in the square.

    For maps of evidence, whose sum over a region says how much the region counts for the class.

    Args:
        side: of the square, in pixels; no more than the images have.
        generator: of the places.

    Example:
        >>> removal = square_removal(2, torch.Generator().manual_seed(0))
        >>> removal(torch.rand(3, 1, 8, 8))[0].sum((1, 2))
        tensor([4., 4., 4.])
    """

    def perturb(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        inside = [
            _intervals(len(x_BCHW), size, min(side, size), generator) for size in x_BCHW.shape[2:]
        ]
        weight_BHW = (inside[0][:, :, None] & inside[1][:, None, :]).to(x_BCHW.device)
        changed = torch.where(weight_BHW[:, None], mean_baseline(x_BCHW), x_BCHW)
        return weight_BHW.to(x_BCHW.dtype), changed

    return perturb


def gaussian_noise(sigma: float, generator: torch.Generator) -> Perturbation:
    """Subtract Gaussian noise, the same for all channels of a pixel; weights: the noise.

    For signed gradients summed over channels: their product with the noise is the first-order
    change of the logit.

    Args:
        sigma: standard deviation, in the units of the images that the model takes.
        generator: of the noise.

    Example:
        >>> noise = gaussian_noise(0.2, torch.Generator().manual_seed(0))
        >>> weight_BHW, changed_BCHW = noise(torch.zeros(2, 3, 8, 8))
        >>> torch.equal(changed_BCHW[:, 2], -weight_BHW)
        True
    """

    def perturb(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(x_BCHW), *x_BCHW.shape[2:])
        weight_BHW = (sigma * torch.randn(shape, generator=generator)).to(x_BCHW)
        return weight_BHW, x_BCHW - weight_BHW[:, None]

    return perturb


def _intervals(count: int, size: int, length: int, generator: torch.Generator) -> Tensor:
    """Random intervals of a length among `size` places, as masks (count, size)."""
    start = torch.randint(size - length + 1, (count, 1), generator=generator)
    place = torch.arange(size)
    return (place >= start) & (place < start + length)
