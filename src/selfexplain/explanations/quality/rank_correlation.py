"""Spearman's rank correlation, on the device (B maps, P places)."""

import torch
from torch import Tensor


def average_ranks(values_BP: Tensor) -> Tensor:
    """Rank of each value in its row, from 1; equal values share the mean of their ranks.

    Example:
        >>> average_ranks(torch.tensor([[0.5, 0.1, 0.5]]))
        tensor([[2.5000, 1.0000, 2.5000]])
    """
    sorted_BP = values_BP.sort(dim=1).values
    values_BP = values_BP.contiguous()
    below = torch.searchsorted(sorted_BP, values_BP, right=False)
    up_to = torch.searchsorted(sorted_BP, values_BP, right=True)
    # Half ranks are exact in float32 up to 2^23 places; not every device has float64.
    return (below + up_to + 1).to(torch.promote_types(values_BP.dtype, torch.float32)) / 2


def spearman(a_BHW: Tensor, b_BHW: Tensor) -> Tensor:
    """Spearman's rho of two maps, for each image: the correlation of their ranks.

    Returns:
        Correlations (B,) in [-1, 1]; 0 where a map is constant and has no order.

    Example:
        >>> rising, falling = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[9.0, 8.0, 1.0]]])
        >>> spearman(rising, falling) < -0.999
        tensor([True])
    """
    a_BP, b_BP = (average_ranks(m.flatten(1)) for m in (a_BHW, b_BHW))
    a_BP, b_BP = a_BP - a_BP.mean(1, keepdim=True), b_BP - b_BP.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm
    scale_B: Tensor = norm(a_BP, dim=1) * norm(b_BP, dim=1)
    return (a_BP * b_BP).sum(1) / scale_B.where(scale_B > 0, 1)
