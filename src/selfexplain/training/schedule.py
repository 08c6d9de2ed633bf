"""The learning rate as a function of the step, with no state to save."""

import math


def cosine_with_warmup(step: int, total: int, warmup: float) -> float:
    """Factor on the largest learning rate at a step: linear warm-up, then half a cosine to zero.

    Args:
        step: number of steps already taken, from 0 to total - 1.
        total: steps of the whole run.
        warmup: steps of the warm-up, not necessarily whole.

    Source: Loshchilov and Hutter 2017 (SGDR), one period; warm-up of Goyal et al. 2017.

    Example:
        >>> [round(cosine_with_warmup(s, 4, 0), 2) for s in range(4)]
        [1.0, 0.85, 0.5, 0.15]
        >>> cosine_with_warmup(0, 10, 2), cosine_with_warmup(1, 10, 2)
        (0.5, 1.0)
    """
    if step + 1 < warmup:
        return (step + 1) / warmup
    if step < warmup:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))
