"""Whether numbers are numbers still."""

from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity; one transfer for all of them.

    Args:
        tensors: at least one, all on one device.

    Example:
        >>> all_finite([torch.ones(2), torch.tensor(float("nan"))])
        False
    """
    return bool(torch.stack([t.detach().float().sum() for t in tensors]).isfinite().all())
