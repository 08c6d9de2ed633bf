"""Differences between two methods that were run with the same seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """Mean of the differences and its 95 % confidence interval (None with fewer than two pairs).

    Example:
        >>> PairedDifference(mean=0.5, ci95=None).mean
        0.5
    """

    mean: float
    ci95: tuple[float, float] | None


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> PairedDifference:
    """Student's t interval of the mean of values[i] - baseline[i], pair by pair.

    Example:
        >>> paired_difference([2.0, 4.0], [1.0, 2.0]).mean
        1.5
    """
    differences = np.asarray(values, dtype=float) - np.asarray(baseline, dtype=float)
    mean, n = float(differences.mean()), len(differences)
    if n < 2:
        return PairedDifference(mean=mean, ci95=None)
    half = float(student_t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return PairedDifference(mean=mean, ci95=(mean - half, mean + half))
