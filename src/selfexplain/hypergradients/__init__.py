"""One-step levels and the gradient through a chain of them; knows nothing of images."""

from typing import TYPE_CHECKING, Literal

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.hypergradients.hypergradient import hypergradient, unroll, unroll_each
    from selfexplain.hypergradients.level import (
        Level,
        Unrolled,
        World,
        all_finite,
        as_function,
        finite,
        take_steps,
    )
    from selfexplain.hypergradients.oracle import brute_force_hypergradient

__all__ = [
    "Level",
    "Mode",
    "Unrolled",
    "World",
    "all_finite",
    "as_function",
    "brute_force_hypergradient",
    "finite",
    "hypergradient",
    "take_steps",
    "unroll",
    "unroll_each",
]

Mode = Literal["finite_difference", "one_sided", "inner_product", "forward_over_reverse", "exact"]
"""Ways to compute a hypergradient, as `hypergradient` describes them.

Defined here so that the command line reads them without torch.
"""

lazily(
    __name__,
    {
        "hypergradient": "hypergradient unroll unroll_each",
        "level": "Level Unrolled World all_finite as_function finite take_steps",
        "oracle": "brute_force_hypergradient",
    },
)
