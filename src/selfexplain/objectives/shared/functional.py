"""Pure functions that losses share: softening, and the classes other than the target.

Shape suffixes: B batch, K classes, J = K - 1 classes that are not true.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Comparing predictions softened by a temperature (Hinton et al. 2015).


def softened_kl(logits_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(z / T)) of each image, in nats, without a graph to t: (B,).

    The factor T^2 keeps the size of the gradient as T grows.

    Args:
        logits_BK: z, of the model that learns.
        teacher_BK: t, logits of the model that teaches.
        temperature: T > 0.

    Example:
        >>> z = torch.tensor([[1.0, 2.0, 3.0]])
        >>> softened_kl(z, z + 5.0, 4.0).abs().max() < 1e-6
        tensor(True)
    """
    dtype = torch.promote_types(logits_BK.dtype, torch.float32)  # half precision is too coarse
    log_p_BK = F.log_softmax(logits_BK.to(dtype) / temperature, dim=1)
    log_q_BK = F.log_softmax(teacher_BK.detach().to(dtype) / temperature, dim=1)
    kl_B = F.kl_div(log_p_BK, log_q_BK, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * kl_B


# What the non-true classes share among themselves, whatever the true class gets.
#
# Shape suffixes: B batch, K classes.


def true_mask(s_BK: Tensor, y_B: Tensor) -> Tensor:
    """True at the true class, (B, K) bool.

    Example:
        >>> true_mask(torch.zeros(1, 3), torch.tensor([1]))
        tensor([[False,  True, False]])
    """
    return torch.arange(s_BK.shape[1], device=s_BK.device) == y_B.unsqueeze(1)


def non_target_loss(
    logits_BK: Tensor, q_BK: Tensor, y_B: Tensor, temperature: float = 1.0
) -> Tensor:
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
        >>> non_target_loss(z, torch.tensor([[0.0, 0.5, 0.5]]), torch.tensor([0])).item()
        0.0
    """
    # A finite filler keeps 0 * log p at the true class zero; -inf would make it NaN.
    filler = torch.finfo(logits_BK.dtype).min / 2
    z_BK = (logits_BK / temperature).masked_fill(true_mask(logits_BK, y_B), filler)
    return temperature**2 * F.kl_div(F.log_softmax(z_BK, dim=1), q_BK, reduction="batchmean")


def other_places(y_B: Tensor, classes: int) -> Tensor:
    """Indices of the classes that are not true, in cyclic order after the true one: (B, J).

    Example:
        >>> other_places(torch.tensor([1]), 3)
        tensor([[2, 0]])
    """
    return (y_B.unsqueeze(1) + torch.arange(1, classes, device=y_B.device)) % classes


def non_target(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """Values of the classes that are not true, in that order: (B, J).

    Example:
        >>> non_target(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1]))
        tensor([[3., 1.]])
    """
    return z_BK.gather(1, other_places(y_B, z_BK.shape[1]))


def put_together(mass_B: Tensor, others_BJ: Tensor, y_B: Tensor) -> Tensor:
    """The distribution with this mass on the true class, the rest shared as `others` says: (B, K).

    Args:
        mass_B: of the true class, in [0, 1].
        others_BJ: shares of the other classes, in the order of `non_target`; rows sum to 1.
        y_B: true classes.

    Example:
        >>> put_together(torch.tensor([0.5]), torch.tensor([[0.75, 0.25]]), torch.tensor([1]))
        tensor([[0.1250, 0.5000, 0.3750]])
    """
    classes = others_BJ.shape[1] + 1
    places_BK = torch.cat((y_B.unsqueeze(1), other_places(y_B, classes)), dim=1)
    mass_B1 = mass_B.unsqueeze(1)
    values_BK = torch.cat((mass_B1, (1 - mass_B1) * others_BJ), dim=1)
    return torch.empty_like(values_BK).scatter_(1, places_BK, values_BK)
