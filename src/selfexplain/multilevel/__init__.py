"""One-step levels and the gradient through a chain of them; knows nothing of images."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.multilevel.finite import all_finite
    from selfexplain.multilevel.hypergradient import hypergradient, unroll
    from selfexplain.multilevel.level import Level
    from selfexplain.multilevel.mode import Mode
    from selfexplain.multilevel.module import as_function
    from selfexplain.multilevel.oracle import brute_force_hypergradient
    from selfexplain.multilevel.processes import Processes
    from selfexplain.multilevel.unrolled import Unrolled
    from selfexplain.multilevel.walk import walk

__all__ = [
    "Level",
    "Mode",
    "Processes",
    "Unrolled",
    "all_finite",
    "as_function",
    "brute_force_hypergradient",
    "hypergradient",
    "unroll",
    "walk",
]

lazily(
    __name__,
    {
        "finite": "all_finite",
        "hypergradient": "hypergradient unroll",
        "level": "Level",
        "mode": "Mode",
        "module": "as_function",
        "oracle": "brute_force_hypergradient",
        "processes": "Processes",
        "unrolled": "Unrolled",
        "walk": "walk",
    },
)
