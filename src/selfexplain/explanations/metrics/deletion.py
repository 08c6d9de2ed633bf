"""Deletion and insertion: how fast a class vanishes, or appears, in the order of its map.

Source: Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models",
BMVC 2018. Shape suffixes: S steps, B images, C channels, H and W space.
"""

import torch
from torch import Tensor, nn

from selfexplain.explanations.hooks import preserved
from selfexplain.explanations.metrics.common import (
    blur_baseline,
    check_explained,
    chunks,
    class_probabilities,
    mean_baseline,
)

STEPS = 32
"""Steps of a path: our choice; the source's code removes 224 of 50,176 pixels at a time."""


def pixel_ranks(map_BHW: Tensor) -> Tensor:
    """The place of each pixel in the order of falling relevance, from 0; ties in reading order."""
    order_BP = map_BHW.flatten(1).argsort(dim=1, descending=True, stable=True)
    place_BP = torch.arange(order_BP.shape[1], device=order_BP.device).expand_as(order_BP)
    return torch.empty_like(order_BP).scatter_(1, order_BP, place_BP).view(map_BHW.shape)


def path_counts(pixels: int, steps: int = STEPS) -> Tensor:
    """How many pixels are replaced at each point of the path, from none to all."""
    steps = min(steps, pixels)
    return torch.linspace(0, pixels, steps + 1, dtype=torch.float64).round().long()


def deletion_auc(
    model: nn.Module,
    x_BCHW: Tensor,
    map_BHW: Tensor,
    classes_B: Tensor,
    *,
    baseline_BCHW: Tensor | None = None,
    steps: int = STEPS,
    batch_size: int = 500,
) -> Tensor:
    """Area under p(class) while pixels are taken away, the most relevant first; lower is better.

    The model runs in eval mode, several steps at once as one batch, and is left as found.

    Args:
        model: maps images to logits (B, K).
        x_BCHW: images.
        map_BHW: relevance at the images' resolution.
        classes_B: the class that is explained, for each image.
        baseline_BCHW: what replaces pixels; None for each image's mean colour.
        steps: groups of pixels, of equal size up to rounding; at most one group a pixel.
        batch_size: largest number of images in one forward.

    Returns:
        Area in [0, 1] of each image, (B,), by the trapezoidal rule.

    Raises:
        InputError: the maps or classes do not fit the images.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> x, maps = torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4)
        >>> deletion_auc(model, x, maps, torch.tensor([0, 2])).shape
        torch.Size([2])
    """
    check_explained(x_BCHW, map_BHW, classes_B)
    end = mean_baseline(x_BCHW) if baseline_BCHW is None else baseline_BCHW
    return _area(model, x_BCHW, end, map_BHW, classes_B, steps, batch_size)


def insertion_auc(
    model: nn.Module,
    x_BCHW: Tensor,
    map_BHW: Tensor,
    classes_B: Tensor,
    *,
    baseline_BCHW: Tensor | None = None,
    steps: int = STEPS,
    batch_size: int = 500,
) -> Tensor:
    """Area under p(class) while pixels are put back, the most relevant first; higher is better.

    Arguments as for `deletion_auc`, but the path starts, by default, at the blurred image: sharp
    pixels on an even ground would make edges that are no evidence.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> x, maps = torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4)
        >>> insertion_auc(model, x, maps, torch.tensor([0, 2])).shape
        torch.Size([2])
    """
    check_explained(x_BCHW, map_BHW, classes_B)
    start = blur_baseline(x_BCHW) if baseline_BCHW is None else baseline_BCHW
    return _area(model, start, x_BCHW, map_BHW, classes_B, steps, batch_size)


def _area(
    model: nn.Module,
    start_BCHW: Tensor,
    end_BCHW: Tensor,
    map_BHW: Tensor,
    classes_B: Tensor,
    steps: int,
    batch_size: int,
) -> Tensor:
    """Area under p(class) along the path from one image to another, in the order of the map."""
    rank_B1HW = pixel_ranks(map_BHW)[:, None]
    count_S = path_counts(map_BHW[0].numel(), steps).to(map_BHW.device)
    parts = []
    with preserved(model, start_BCHW, eval_mode=True), torch.no_grad():
        for chunk in chunks(len(count_S), len(start_BCHW), batch_size):
            changed = rank_B1HW < count_S[chunk.start : chunk.stop, None, None, None, None]
            x_SBCHW = torch.where(changed, end_BCHW, start_BCHW)
            parts.append(class_probabilities(model, x_SBCHW, classes_B))
    return torch.trapezoid(torch.cat(parts).T, count_S / map_BHW[0].numel(), dim=1)
