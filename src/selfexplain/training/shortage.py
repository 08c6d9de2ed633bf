"""A GPU whose memory does not suffice, said in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from selfexplain.errors import ShortageError

SIGNS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What errors of CUDA and its libraries say when there is no memory left."""


@contextmanager
def shortage_said(remedy: str) -> Iterator[None]:
    """Turn what PyTorch raises when a GPU has no memory left into a `ShortageError`.

    Args:
        remedy: what to pass instead.

    Example:
        >>> with shortage_said("pass a smaller --batch-size"):
        ...     raise RuntimeError("CUDA error: out of memory")
        Traceback (most recent call last):
        ...
        selfexplain.errors.ShortageError: the GPU has no memory left; pass a smaller --batch-size
    """
    try:
        yield
    except RuntimeError as error:  # OutOfMemoryError is one, too
        if isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS):
            raise ShortageError(f"the GPU has no memory left; {remedy}") from error
        raise
