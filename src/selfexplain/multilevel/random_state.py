"""The state of torch's global generators, so that a loss draws the same numbers again."""

import torch
from torch import Tensor


def random_state() -> list[Tensor]:
    """States of the global generators: the CPU's, and the current CUDA device's if in use.

    Example:
        >>> state = random_state()
        >>> first = torch.rand(1)
        >>> set_random_state(state)
        >>> torch.equal(torch.rand(1), first)
        True
    """
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def set_random_state(state: list[Tensor]) -> None:
    """Put the generators back to what `random_state` told."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])
