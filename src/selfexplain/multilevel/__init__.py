"""One-step levels and the gradient through a chain of them; knows nothing of images or networks."""

from selfexplain.multilevel.hypergradient import hypergradient
from selfexplain.multilevel.level import Level
from selfexplain.multilevel.oracle import brute_force_hypergradient

__all__ = ["Level", "brute_force_hypergradient", "hypergradient"]
