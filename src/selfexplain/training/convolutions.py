"""Let the GPU's library time its convolutions and take the fastest."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def autotuned_convolutions() -> Iterator[None]:
    """Choose cuDNN's algorithms by timing them, for the time of the block.

    Training steps have one shape, so the search pays at once. Nothing changes where the user asked
    for deterministic algorithms, and nothing on a CPU.

    Example:
        >>> before = torch.backends.cudnn.benchmark
        >>> with autotuned_convolutions():
        ...     torch.backends.cudnn.benchmark
        True
        >>> torch.backends.cudnn.benchmark == before
        True
    """
    before = torch.backends.cudnn.benchmark
    wants_the_same = torch.backends.cudnn.deterministic or (
        torch.are_deterministic_algorithms_enabled()
    )
    torch.backends.cudnn.benchmark = before or not wants_the_same
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
