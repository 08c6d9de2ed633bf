"""Differences between two methods that were run with the same seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfexplain.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """Mean of the differences, how sure one can be of it, and None where nothing can be said.

    Example:
        >>> PairedDifference(mean=0.5, ci95=None, simultaneous95=None, p_value=None).mean
        0.5
    """

    mean: float
    ci95: tuple[float, float] | None
    """95 % confidence interval of this difference alone; None with fewer than two pairs."""
    simultaneous95: tuple[float, float] | None
    """Interval that is wide enough for all comparisons together (Bonferroni): with a probability of
    at least 95 % every one of them covers its true difference."""
    p_value: float | None
    """Of the two-sided t-test that the true mean is 0; None also where all differences are equal
    and not 0, for Student's t takes their spread for the noise."""


def paired_difference(
    values: Sequence[float], baseline: Sequence[float], *, comparisons: int = 1
) -> PairedDifference:
    """Mean of values[i] - baseline[i], with Student's t intervals and test, pair by pair.

    Args:
        values: of one method, seed by seed.
        baseline: of the other, in the same order of seeds.
        comparisons: how many differences are looked at together, for the simultaneous interval.

    Raises:
        InputError: there is nothing to compare, or one has more values than the other.

    Example:
        >>> paired_difference([2.0, 4.0], [1.0, 2.0]).mean
        1.5
    """
    if len(values) != len(baseline) or not values or comparisons < 1:
        raise InputError(
            f"{len(values)} values cannot be paired with {len(baseline)} in {comparisons} "
            "comparisons; pass one of each for every seed, and comparisons of at least 1"
        )
    differences = np.asarray(values, dtype=float) - np.asarray(baseline, dtype=float)
    mean, n = float(differences.mean()), len(differences)
    if n < 2:
        return PairedDifference(mean=mean, ci95=None, simultaneous95=None, p_value=None)
    error = float(differences.std(ddof=1) / np.sqrt(n))
    return PairedDifference(
        mean=mean,
        ci95=_interval(mean, error, n, 0.05),
        simultaneous95=_interval(mean, error, n, 0.05 / comparisons),
        p_value=_p_value(differences, mean, error),
    )


def _interval(mean: float, error: float, n: int, miss: float) -> tuple[float, float]:
    """The interval that misses the true mean with probability `miss`."""
    from scipy.stats import t as student_t  # here, as it takes a second to import

    half = float(student_t.ppf(1 - miss / 2, n - 1)) * error
    return mean - half, mean + half


def _p_value(differences: np.ndarray, mean: float, error: float) -> float | None:
    from scipy.stats import t as student_t

    if np.allclose(differences, differences[0], rtol=1e-9, atol=1e-12):
        return 1.0 if abs(mean) < 1e-12 else None
    return float(2 * student_t.sf(abs(mean) / error, len(differences) - 1))
