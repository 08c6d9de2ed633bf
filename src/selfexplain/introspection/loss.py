"""Losses that teach a soft target to the logits.

Every target is detached by its maker: were it not, the network could lower the loss by making its
explanations alike instead of its predictions right.

Shape suffixes: B batch, K classes.
"""

import torch.nn.functional as F
from torch import Tensor

from selfexplain.objectives.non_true import non_true_loss

__all__ = ["distillation_loss", "non_true_loss", "soft_cross_entropy"]


def soft_cross_entropy(logits_BK: Tensor, target_BK: Tensor) -> Tensor:
    """Mean over the batch of - sum_c target_c log p_c, in nats: a scalar.

    Example:
        >>> import torch
        >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]])).exp()
        tensor(2.)
    """
    return F.cross_entropy(logits_BK, target_BK)


def distillation_loss(logits_BK: Tensor, target_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(target^(T) || p^(T)), both softened by T (Hinton et al. 2015, section 2): a scalar.

    target^(T) is the target's T-th root, normalised, which is what softmax(log target / T) gives.

    Example:
        >>> import torch
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]), 4.0).item()
        0.0
    """
    softened_BK = target_BK.clamp_min(0).pow(1 / temperature)
    softened_BK = softened_BK / softened_BK.sum(dim=1, keepdim=True)
    log_p_BK = F.log_softmax(logits_BK / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p_BK, softened_BK, reduction="batchmean")
