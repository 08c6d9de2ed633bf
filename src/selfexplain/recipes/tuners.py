"""Which options are tried next."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from selfexplain.data.seeding import named_generator
from selfexplain.objectives import Choice
from selfexplain.objectives.tunable import Tunable
from selfexplain.recipes.free_options import Value

Tunables = Mapping[str, Tunable]


class Tuner(Protocol):
    """Proposes the options of one objective's trials but for the first, which has the defaults."""

    waits: bool
    """Whether a proposal needs the results of the trials before it."""

    def propose(self, trial: int) -> dict[str, Value]:
        """Options of a trial, counted from 1."""

    def tell(self, trial: int, options: Mapping[str, Any], accuracy: float) -> None:
        """Take note of what a trial brought; 0 if it diverged."""


def draw(
    tunables: Tunables, generator: torch.Generator, whole: frozenset[str] = frozenset()
) -> dict[str, Value]:
    """One value for each option: evenly from a range or, if it says so, from its logarithm.

    Args:
        tunables: option -> where its values may lie.
        generator: a CPU generator.
        whole: names of the options that are whole numbers.

    Example:
        >>> from selfexplain.objectives import Range
        >>> drawn = draw({"weight": Range(0.1, 1.0)}, torch.Generator().manual_seed(0))
        >>> 0.1 <= drawn["weight"] <= 1.0
        True
    """
    return {k: _draw(t, generator, k in whole) for k, t in tunables.items()}


def _draw(tunable: Tunable, generator: torch.Generator, whole: bool) -> Value:
    share = torch.rand((), generator=generator, dtype=torch.float64).item()
    if isinstance(tunable, Choice):
        return tunable.values[int(share * len(tunable.values))]
    low, high = tunable.low, tunable.high
    if tunable.log:
        value = low * math.exp(share * math.log(high / low))
    else:
        value = low + share * (high - low)
    return round(value) if whole else min(value, high)


class RandomTuner:
    """Random search (Bergstra and Bengio 2012): each trial's draw depends on its number alone.

    Args:
        spec: of the objective, which names its stream of random numbers.
        tunables: option -> where its values may lie.
        whole: names of the options that are whole numbers.

    Example:
        >>> from selfexplain.objectives import Range
        >>> tuner = RandomTuner("a", {"weight": Range(0.1, 1.0)}, frozenset())
        >>> tuner.propose(1) == tuner.propose(1) != tuner.propose(2)
        True
    """

    waits = False

    def __init__(self, spec: str, tunables: Tunables, whole: frozenset[str]) -> None:
        self.spec, self.tunables, self.whole = spec, tunables, whole

    def propose(self, trial: int) -> dict[str, Value]:
        """Draw the options of a trial."""
        return draw(self.tunables, named_generator("tune", self.spec, trial), self.whole)

    def tell(self, trial: int, options: Mapping[str, Any], accuracy: float) -> None:
        """Learn nothing: the next draw does not depend on it."""
