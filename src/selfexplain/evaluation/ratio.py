"""How much of one gain another is, when both were measured with the same seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
