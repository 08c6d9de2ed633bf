"""Random numbers of a step: a function of seed, epoch and process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """One number for each (seed, epoch, process).

    Example:
        >>> epoch_seed(0, 1, 0) == epoch_seed(0, 1, 0)
        True
    """
    return hash((seed, epoch, rank)) % 2**63  # a tuple of integers hashes alike in every process


@contextmanager
def global_generator_kept(device: torch.device) -> Iterator[None]:
    """Give the caller's global generators back as they were.

    Example:
        >>> before = torch.get_rng_state()
        >>> with global_generator_kept(torch.device("cpu")):
        ...     _ = torch.manual_seed(1)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
