"""What the non-true classes share among themselves, whatever the true class gets.

Shape suffixes: B batch, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def true_mask(s_BK: Tensor, y_B: Tensor) -> Tensor:
    """True at the true class, (B, K) bool.

    Example:
        >>> true_mask(torch.zeros(1, 3), torch.tensor([1]))
        tensor([[False,  True, False]])
    """
    return torch.arange(s_BK.shape[1], device=s_BK.device) == y_B.unsqueeze(1)


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
