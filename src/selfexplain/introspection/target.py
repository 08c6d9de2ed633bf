"""From similarities to a soft target over the non-true classes, q (B, K) with q_y = 0 and sum 1.

Shape suffixes: B batch, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from selfexplain.objectives.shared.functional import non_target_loss, true_mask

# Losses that teach a soft target to the logits.
#
# Every target is detached by its maker: were it not, the network could lower the loss by making
# its explanations alike instead of its predictions right.
#
# Shape suffixes: B batch, K classes.


__all__ = ["distillation_loss", "non_target_loss", "soft_cross_entropy"]


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


def softmax_target(s_BK: Tensor, y_B: Tensor, tau: float = 1.0) -> Tensor:
    """q_c = softmax over c != y of s_c / tau.

    A large |tau| approaches the uniform target of label smoothing; a negative tau gives the mass to
    the classes that look *least* like the true one.

    Example:
        >>> softmax_target(torch.zeros(1, 3), torch.tensor([0]))
        tensor([[0.0000, 0.5000, 0.5000]])
    """
    return (s_BK / tau).masked_fill(true_mask(s_BK, y_B), float("-inf")).softmax(dim=1)


def zipf_target(s_BK: Tensor, y_B: Tensor, exponent: float = 1.0) -> Tensor:
    """q_c proportional to rank_c ** -exponent, rank 1 for the most similar non-true class.

    Zipf's law over ranks, as in Zipf's label smoothing (Liang et al. 2022): only the order of the
    similarities counts, not their scale, so no temperature has to follow the training. Classes that
    are equally similar share the mass of their ranks evenly.

    Example:
        >>> zipf_target(torch.tensor([[9.0, 1.0, 5.0]]), torch.tensor([0]))
        tensor([[0.0000, 0.3333, 0.6667]])
    """
    is_true_BK = true_mask(s_BK, y_B)
    sorted_BK, order_BK = s_BK.masked_fill(is_true_BK, float("-inf")).sort(dim=1, descending=True)
    ranks = torch.arange(1, s_BK.shape[1] + 1, device=s_BK.device, dtype=s_BK.dtype)
    mass_BK = _mean_over_ties(ranks.pow(-exponent).expand_as(s_BK), sorted_BK)
    mass_BK = torch.empty_like(s_BK).scatter_(1, order_BK, mass_BK).masked_fill(is_true_BK, 0.0)
    return mass_BK / mass_BK.sum(dim=1, keepdim=True)


def _mean_over_ties(mass_BK: Tensor, sorted_BK: Tensor) -> Tensor:
    """Give neighbours of equal value the mean of their masses, for no order among them is known."""
    is_new_BK = torch.zeros_like(sorted_BK, dtype=torch.int64)
    is_new_BK[:, 1:] = sorted_BK[:, 1:] != sorted_BK[:, :-1]
    group_BK = is_new_BK.cumsum(dim=1)
    sums_BK = torch.zeros_like(sorted_BK).scatter_add_(1, group_BK, mass_BK)
    counts_BK = torch.zeros_like(sorted_BK).scatter_add_(1, group_BK, torch.ones_like(sorted_BK))
    return (sums_BK / counts_BK.clamp_min(1)).gather(1, group_BK)


def uniform_target(s_BK: Tensor, y_B: Tensor) -> Tensor:
    """q_c = 1 / (K - 1) for c != y: the control that knows nothing of similarity.

    Example:
        >>> uniform_target(torch.tensor([[9.0, 1.0, 5.0]]), torch.tensor([0]))
        tensor([[0.0000, 0.5000, 0.5000]])
    """
    return (~true_mask(s_BK, y_B)).to(s_BK.dtype) / (s_BK.shape[1] - 1)


def permuted_target(q_BK: Tensor, y_B: Tensor, generator: torch.Generator) -> Tensor:
    """The same values given to other non-true classes, shuffled anew for each image.

    The control for "similarity matters": its entropy is q's, its knowledge is none.

    Args:
        q_BK: a target with q_y = 0.
        y_B: true classes.
        generator: a CPU generator, so that every device draws the same.

    Example:
        >>> q = torch.tensor([[0.0, 0.3, 0.7]])
        >>> p = permuted_target(q, torch.tensor([0]), torch.Generator().manual_seed(0))
        >>> sorted(round(v, 1) for v in p[0].tolist())
        [0.0, 0.3, 0.7]
    """
    return shuffled(q_BK, y_B, torch.rand(q_BK.shape, generator=generator).to(q_BK.device))


def shuffled(q_BK: Tensor, y_B: Tensor, keys_BK: Tensor) -> Tensor:
    """The values of a target with q_y = 0 on its non-true classes, in the order of keys (B, K).

    Example:
        >>> keys = torch.tensor([[0.0, 0.9, 0.1]])
        >>> shuffled(torch.tensor([[0.0, 0.3, 0.7]]), torch.tensor([0]), keys)
        tensor([[0.0000, 0.7000, 0.3000]])
    """
    is_true_BK = true_mask(q_BK, y_B)
    # The true class sorts last in both orders, so its zero stays where it is.
    source_BK = keys_BK.masked_fill(is_true_BK, float("inf")).argsort(dim=1)
    places_BK = is_true_BK.to(torch.int8).argsort(dim=1, stable=True)
    return torch.empty_like(q_BK).scatter_(1, places_BK, q_BK.gather(1, source_BK))


def blend_uniform(q_BK: Tensor, y_B: Tensor, share: float) -> Tensor:
    """(1 - share) q + share uniform, over the non-true classes.

    Example:
        >>> blend_uniform(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([0]), 0.5)
        tensor([[0.0000, 0.7500, 0.2500]])
    """
    return torch.lerp(q_BK, uniform_target(q_BK, y_B), share)


def mixed_target(q_BK: Tensor, y_B: Tensor, mass: float | Tensor) -> Tensor:
    """(1 - m) onehot(y) + m q, with m a number or one number for each image (B,).

    Example:
        >>> mixed_target(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([0]), 0.25)
        tensor([[0.7500, 0.2500, 0.0000]])
    """
    onehot_BK = F.one_hot(y_B, q_BK.shape[1]).to(q_BK.dtype)
    m = mass.unsqueeze(1) if isinstance(mass, Tensor) else mass
    return (1 - m) * onehot_BK + m * q_BK
