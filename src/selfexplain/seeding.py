"""Random numbers: named generators, seeds of epochs, and the caller's generators left alone."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def named_generator(*key: int | str) -> torch.Generator:
    """Make a CPU generator whose stream depends on `key` alone.

    Neighbouring keys, such as (seed 0, epoch 1) and (seed 1, epoch 0), give unrelated streams.

    Args:
        key: What the numbers are for, for example ("order", seed, epoch).

    Example:
        >>> first = torch.rand(1, generator=named_generator("order", 0, 1))
        >>> bool(first == torch.rand(1, generator=named_generator("order", 0, 1)))
        True
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    # torch's CPU generator looks at the lower 32 bits of a seed only
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


# Random numbers of a step: a function of seed, epoch and process.


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """One number for each (seed, epoch, process).

    Example:
        >>> epoch_seed(0, 1, 0) == epoch_seed(0, 1, 0)
        True
    """
    return hash((seed, epoch, rank)) % 2**63  # a tuple of integers hashes alike in every process


@contextmanager
def global_generator_kept(device: torch.device) -> Iterator[None]:
    """Restore the caller's global generators afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


# The state of torch's global generators, so that a loss draws the same numbers again.


def random_state() -> list[Tensor]:
    """States of the global generators: the CPU's, and the current CUDA device's if in use.

    None while a CUDA graph is captured: the device's cannot be asked for, and what is captured
    draws nothing.
    """
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return []
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def set_random_state(state: list[Tensor]) -> None:
    """Restore the generators to the states that `random_state` returned."""
    if state:
        torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])
