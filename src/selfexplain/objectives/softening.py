"""Comparing predictions softened by a temperature (Hinton et al. 2015)."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
