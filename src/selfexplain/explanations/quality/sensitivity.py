"""Max-sensitivity: how far a map moves when the image hardly does.

Source: Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (In)fidelity and Sensitivity of
Explanations", NeurIPS 2019. Shape suffixes: N draws, B images, C channels, H and W space.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .scoring import chunks

ExplainImages = Callable[[Tensor, Tensor], Tensor]
"""From images x_BCHW and classes_B to maps_BHW."""


def max_sensitivity(
    explain: ExplainImages,
    x_BCHW: Tensor,
    classes_B: Tensor,
    *,
    generator: torch.Generator,
    radius: float = 0.02,
    samples: int = 10,
    batch_size: int = 500,
) -> Tensor:
    """The largest relative change of the map among random images nearby; lower is better.

    ``max_n |map(x + d_n) - map(x)| / |map(x)|`` in the Euclidean norm, d_n uniform in
    ``[-radius, radius]``: a lower bound of the maximum over the whole ball. The class stays that
    of the image itself.

    Args:
        explain: from images (B, C, H, W) and classes (B,) to maps (B, H, W), of any resolution.
        x_BCHW: images.
        classes_B: the class that is explained, for each image.
        generator: a generator on the CPU; the draws are the same on every device.
        radius: in the units of the images that ``explain`` takes.
        samples: number of draws N.
        batch_size: largest number of images that ``explain`` is given at once.

    Returns:
        Sensitivity (B,); where a map is zero throughout, the change is not divided.

    Example:
        >>> def explain(x_BCHW, classes_B):
        ...     return x_BCHW.sum(1)
        >>> x, generator = torch.ones(2, 1, 4, 4), torch.Generator().manual_seed(0)
        >>> max_sensitivity(explain, x, torch.tensor([0, 1]), generator=generator) <= 0.02
        tensor([True, True])
    """
    norm_B, map_BP = _norm_and_map(explain(x_BCHW, classes_B))
    largest_B = torch.zeros_like(norm_B)
    for chunk in chunks(samples, len(x_BCHW), batch_size):
        near = [x_BCHW + _step(x_BCHW.shape, radius, generator).to(x_BCHW) for _ in chunk]
        moved = explain(torch.cat(near), classes_B.repeat(len(near)))
        moved_NBP = moved.reshape(len(near), *map_BP.shape)
        largest_B = largest_B.maximum((moved_NBP - map_BP).norm(dim=2).amax(0))
    return largest_B / norm_B.where(norm_B > 0, 1)


def _norm_and_map(map_BHW: Tensor) -> tuple[Tensor, Tensor]:
    map_BP = map_BHW.flatten(1)
    return map_BP.norm(dim=1), map_BP


def _step(shape: torch.Size, radius: float, generator: torch.Generator) -> Tensor:
    """One draw of the ball around each image."""
    return radius * (2 * torch.rand(shape, generator=generator) - 1)
