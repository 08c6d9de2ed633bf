"""Paired differences over seeds: intervals, correction for many comparisons, ratios of gains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfexplain.errors import InputError
from selfexplain.limits import check_in_range

# Differences between two methods that were run with the same seeds.


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


# Intervals of one method's numbers.


def mean_interval(mean: float, std: float | None, n: int) -> tuple[float, float] | None:
    """95 % interval of a mean by Student's t, from the standard deviation of n values.

    None without a spread, which one value does not have.

    Example:
        >>> [round(end, 2) for end in mean_interval(90.0, 1.0, 5)]
        [88.76, 91.24]
    """
    if std is None or n < 2:
        return None
    return _interval(mean, std / math.sqrt(n), n, 0.05)


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the median of what the values are drawn from, whatever its distribution.

    The ends are the k-th smallest and the k-th largest value, with the largest k for which a
    binomial variable of n trials with probability 1/2 is below k with probability at most 0.025:
    each value is as likely above the median as below. None for fewer than six values, which no k
    suffices for.

    Example:
        >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
        (2.0, 8.0)
        >>> median_interval([1.0, 2.0]) is None
        True
    """
    n, ordered = len(values), sorted(values)
    below, k = 0, 0
    # In whole numbers: 2^n P(X < k) = sum of the binomial coefficients below k.
    while 40 * (below + math.comb(n, k)) <= 2**n:
        below += math.comb(n, k)
        k += 1
    return None if k == 0 else (ordered[k - 1], ordered[n - k])


# Correction for looking at several comparisons at once.


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values: comparing each with 0.05 errs at all with probability at most 0.05.

    With m tests, p_(1) <= ... <= p_(m), the i-th adjusted value is the largest of
    min(1, (m - j + 1) p_(j)) over j <= i. It holds whatever the tests have to do with each other,
    and is never larger than Bonferroni's min(1, m p). Source: Holm 1979, "A Simple Sequentially
    Rejective Multiple Test Procedure".

    Args:
        p_values: of all tests; None for one that could not be made, which counts among the m as if
            it had p = 1.

    Returns:
        The adjusted values in the same order, None where there was none.

    Raises:
        InputError: a value is not in [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    for p in p_values:
        if p is not None:
            check_in_range("a p-value", p, 0, 1)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Ratio of two means and its 95 % confidence interval.

    Both are None where the whole is not clearly above 0, and there is nothing to take shares of.

    Example:
        >>> Share(ratio=0.5, ci95=(0.4, 0.6)).ratio
        0.5
    """

    ratio: float | None
    ci95: tuple[float, float] | None


def share_of(parts: Sequence[float], wholes: Sequence[float]) -> Share:
    """Mean of the parts divided by the mean of the wholes, pair by pair, with Fieller's interval.

    The interval holds every r for which the mean of parts[i] - r wholes[i] cannot be told from 0 by
    Student's t (Fieller 1954). It is finite where the mean of the wholes can be.

    Args:
        parts: one for each seed.
        wholes: of the same seeds.

    Example:
        >>> share = share_of([1.0, 1.1, 0.9], [2.0, 2.1, 2.0])
        >>> round(share.ratio, 3), [round(end, 2) for end in share.ci95]
        (0.492, [0.39, 0.58])
    """
    from scipy.stats import t as student_t  # here, as scipy.stats takes a second to import

    y_N, x_N = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)
    n = len(x_N)
    if n < 2:
        return Share(ratio=None, ci95=None)
    y, x = float(y_N.mean()), float(x_N.mean())
    # Fieller: (y - r x)^2 <= q^2 (s_yy - 2 r s_xy + r^2 s_xx) / n is a r^2 - 2 b r + c <= 0.
    scale = float(student_t.ppf(0.975, n - 1)) ** 2 / n
    (s_yy, s_xy), (_, s_xx) = np.cov(y_N, x_N, ddof=1).tolist()
    a, b, c = x * x - scale * s_xx, x * y - scale * s_xy, y * y - scale * s_yy
    if a <= 0 or x <= 0:
        return Share(ratio=None, ci95=None)
    half = math.sqrt(max(b * b - a * c, 0.0))
    return Share(ratio=y / x, ci95=((b - half) / a, (b + half) / a))
