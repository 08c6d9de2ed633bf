"""Infidelity: how badly a map foretells what changes of the image do to the class's logit.

Source: Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (In)fidelity and Sensitivity of
Explanations", NeurIPS 2019. Shape suffixes: N draws, B images, C channels, H and W space.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .perturbations import Perturbation
from .scoring import check_explained, chunks, class_logits, untouched


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

    Example:
        >>> infidelity_of(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [6.0]])).value_B
        tensor([0.])
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
        >>> from selfexplain.explanations.quality import square_removal
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> x, maps = torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4)
        >>> removal = square_removal(2, torch.Generator().manual_seed(0))
        >>> infidelity(model, x, maps, torch.tensor([0, 2]), removal).value_B.shape
        torch.Size([2])
    """
    check_explained(x_BCHW, map_BHW, classes_B)
    foretold, logits = [], []
    with untouched(model, x_BCHW):
        whole_1B = class_logits(model, x_BCHW[None].clone(), classes_B)
        for chunk in chunks(samples, len(x_BCHW), batch_size):
            draws = [perturbation(x_BCHW) for _ in chunk]
            foretold += [(weight_BHW * map_BHW).sum((1, 2)) for weight_BHW, _ in draws]
            changed_NBCHW = torch.stack([changed_BCHW for _, changed_BCHW in draws])
            logits.append(class_logits(model, changed_NBCHW, classes_B))
    return infidelity_of(torch.stack(foretold), whole_1B - torch.cat(logits))
