"""How two classes' attention meets, and how two layers' does: the terms of ICASC (`icasc.py`).

Attention A is a class map without what speaks against the class: never negative.

Shape suffixes: B batch, H and W space, K classes.
"""

import torch
from torch import Tensor

EPSILON = 1e-8


def most_confusing(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """The class with the highest logit beside the true one: (B,).

    Example:
        >>> most_confusing(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor([2])
    """
    others_BK = logits_BK.detach().scatter(1, y_B.unsqueeze(1), float("-inf"))
    return others_BK.argmax(dim=1)


def soft_mask(attention_BHW: Tensor, sigma: float, omega: float) -> Tensor:
    """Where attention is high: sigmoid(omega (A / max A - sigma)), (B, H, W), in [0, 1].

    Args:
        attention_BHW: A, not negative.
        sigma: share of the image's highest attention at which the mask is 1/2.
        omega: steepness.

    Example:
        >>> soft_mask(torch.tensor([[[0.0, 2.0, 4.0]]]), sigma=0.5, omega=100.0)
        tensor([[[1.9287e-22, 5.0000e-01, 1.0000e+00]]])
    """
    peak_B11 = attention_BHW.amax((1, 2), keepdim=True)
    return torch.sigmoid(omega * (attention_BHW / (peak_B11 + EPSILON) - sigma))


def overlap(true_BHW: Tensor, confusing_BHW: Tensor, mask_BHW: Tensor) -> Tensor:
    """L_AS: how far two classes attend to the same places within the mask.

    2 sum(min(A_true, A_confusing) mask) / sum(A_true + A_confusing), between 0 and 1. The sums run
    over the batch: image by image, one whose attention all but vanishes would have a gradient
    without bound, and one such step ruins a training.

    Example:
        >>> a = torch.tensor([[[1.0, 3.0]]])
        >>> overlap(a, a, torch.ones_like(a)).item(), overlap(a, 0 * a, torch.ones_like(a)).item()
        (1.0, 0.0)
    """
    common = (torch.minimum(true_BHW, confusing_BHW) * mask_BHW).sum()
    return 2 * common / ((true_BHW + confusing_BHW).sum() + EPSILON)


def outside(attention_BHW: Tensor, mask_BHW: Tensor, theta: float) -> Tensor:
    """L_AC: theta - sum(A mask) / sum(A), summed over the batch: low if attention is in the mask.

    Example:
        >>> a = torch.tensor([[[1.0, 3.0]]])
        >>> round(outside(a, torch.tensor([[[0.0, 1.0]]]), theta=0.8).item(), 4)
        0.05
    """
    return theta - (attention_BHW * mask_BHW).sum() / (attention_BHW.sum() + EPSILON)
