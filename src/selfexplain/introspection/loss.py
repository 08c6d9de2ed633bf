"""Losses that teach a soft target to the logits.

Every target is detached by its maker: were it not, the network could lower the loss by making its
explanations alike instead of its predictions right.

Shape suffixes: B batch, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from selfexplain.introspection.target import true_mask


def soft_cross_entropy(logits_BK: Tensor, target_BK: Tensor) -> Tensor:
    """Mean over the batch of - sum_c target_c log p_c, in nats: a scalar.

    Example:
        >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]])).exp()
        tensor(2.)
    """
    return F.cross_entropy(logits_BK, target_BK)


def distillation_loss(logits_BK: Tensor, target_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(target^(T) || p^(T)), both softened by T (Hinton et al. 2015, section 2): a scalar.

    target^(T) is the target's T-th root, normalised, which is what softmax(log target / T) gives.

    Example:
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]), 4.0).item()
        0.0
    """
    softened_BK = target_BK.clamp_min(0).pow(1 / temperature)
    softened_BK = softened_BK / softened_BK.sum(dim=1, keepdim=True)
    log_p_BK = F.log_softmax(logits_BK / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p_BK, softened_BK, reduction="batchmean")


def non_true_loss(logits_BK: Tensor, q_BK: Tensor, y_B: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(q || p^(T) restricted to the non-true classes and renormalised): a scalar.

    It says how the non-true classes share what is left to them and leaves the true class's own
    confidence to the cross-entropy, which is why it does not spoil calibration as a mixed target
    does. (The same separation as non-target-class distillation, Zhao et al. 2022.)

    Args:
        logits_BK: the model's logits.
        q_BK: target with q_y = 0 and sum 1.
        y_B: true classes.
        temperature: T, softens the model's side only; q carries its own temperature.

    Example:
        >>> z = torch.tensor([[7.0, 0.0, 0.0]])
        >>> non_true_loss(z, torch.tensor([[0.0, 0.5, 0.5]]), torch.tensor([0])).item()
        0.0
    """
    # A finite filler keeps 0 * log p at the true class zero; -inf would make it NaN.
    filler = torch.finfo(logits_BK.dtype).min / 2
    z_BK = (logits_BK / temperature).masked_fill(true_mask(logits_BK, y_B), filler)
    return temperature**2 * F.kl_div(F.log_softmax(z_BK, dim=1), q_BK, reduction="batchmean")
