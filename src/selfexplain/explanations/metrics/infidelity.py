"""Infidelity: how badly a map foretells what changes of the image do to the class's logit.

Source: Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (In)fidelity and Sensitivity of
Explanations", NeurIPS 2019. Shape suffixes: N draws, B images, C channels, H and W space.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from selfexplain.explanations.hooks import preserved
from selfexplain.explanations.metrics.common import (
    Perturbation,
    check_explained,
    chunks,
    class_logits,
)


class Infidelity(NamedTuple):
    """Infidelity of each image's map, at the best scale of the map; lower is better.

    Attributes:
        value_B: mean squared error, in squared logits.
        share_B: the same, divided by the mean squared change of the logit: 0 if the map foretells
            all, 1 if nothing. It does not depend on the scale of the logits, and is ours.

    Example:
        >>> Infidelity(torch.tensor([0.5]), torch.tensor([0.25])).share_B
        tensor([0.2500])
    """

    value_B: Tensor
    share_B: Tensor


def infidelity_of(foretold_NB: Tensor, change_NB: Tensor) -> Infidelity:
    """Infidelity of predictions I . map against the changes f(x) - f(x changed by I).

    ``mean_n (beta I_n . map - change_n)^2`` with ``beta = mean(I . map change) / mean((I .
    map)^2)``, the best scale in the sense of least squares, as the scale of a map has no meaning.
    """
    power_B = foretold_NB.square().mean(0)
    beta_B = (foretold_NB * change_NB).mean(0) / power_B.where(power_B > 0, 1)
    value_B = (beta_B * foretold_NB - change_NB).square().mean(0)
    whole_B = change_NB.square().mean(0)
    return Infidelity(value_B, value_B / whole_B.where(whole_B > 0, 1))


def infidelity(
    model: nn.Module,
    x_BCHW: Tensor,
    map_BHW: Tensor,
    classes_B: Tensor,
    perturbation: Perturbation,
    *,
    samples: int = 50,
    batch_size: int = 500,
) -> Infidelity:
    """Infidelity of maps under random perturbations of the images.

    The model runs in eval mode, several draws at once as one batch, and is left as found.

    Args:
        model: maps images to logits (B, K); f is the logit of the class.
        x_BCHW: images.
        map_BHW: maps at the images' resolution.
        classes_B: the class that is explained, for each image.
        perturbation: such as `square_removal` or `gaussian_noise`; it is called once a draw.
        samples: number of draws N.
        batch_size: largest number of images in one forward.

    Raises:
        InputError: the maps or classes do not fit the images.

    Example:
        >>> from selfexplain.explanations.metrics import square_removal
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> x, maps = torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4)
        >>> removal = square_removal(2, torch.Generator().manual_seed(0))
        >>> infidelity(model, x, maps, torch.tensor([0, 2]), removal).value_B.shape
        torch.Size([2])
    """
    check_explained(x_BCHW, map_BHW, classes_B)
    foretold, logits = [], []
    with preserved(model, x_BCHW, eval_mode=True), torch.no_grad():
        whole_1B = class_logits(model, x_BCHW[None].clone(), classes_B)
        for chunk in chunks(samples, len(x_BCHW), batch_size):
            draws = [perturbation(x_BCHW) for _ in chunk]
            foretold += [(weight_BHW * map_BHW).sum((1, 2)) for weight_BHW, _ in draws]
            changed_NBCHW = torch.stack([changed_BCHW for _, changed_BCHW in draws])
            logits.append(class_logits(model, changed_NBCHW, classes_B))
    return infidelity_of(torch.stack(foretold), whole_1B - torch.cat(logits))


# Max-sensitivity, of the same paper: how far a map moves when the image hardly does.


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
        nearby = explain(torch.cat(near), classes_B.repeat(len(near)))
        nearby_NBP = nearby.reshape(len(near), *map_BP.shape)
        largest_B = largest_B.maximum((nearby_NBP - map_BP).norm(dim=2).amax(0))
    return largest_B / norm_B.where(norm_B > 0, 1)


def _norm_and_map(map_BHW: Tensor) -> tuple[Tensor, Tensor]:
    map_BP = map_BHW.flatten(1)
    return map_BP.norm(dim=1), map_BP


def _step(shape: torch.Size, radius: float, generator: torch.Generator) -> Tensor:
    """One draw of the ball around each image."""
    return radius * (2 * torch.rand(shape, generator=generator) - 1)
