"""One-step levels and the gradient through a chain of them; knows nothing of images."""

from selfexplain.multilevel.finite import all_finite
from selfexplain.multilevel.hypergradient import Mode, hypergradient, unroll
from selfexplain.multilevel.level import Level
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
