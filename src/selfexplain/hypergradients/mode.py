"""The ways to compute a hypergradient, by name; without torch, for the command line."""

from typing import Literal

Mode = Literal["finite_difference", "one_sided", "inner_product", "exact"]
"""`hypergradient` says what each does."""
