"""Correction for looking at several comparisons at once."""

from collections.abc import Sequence

from selfexplain.errors import InputError


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
        if p is not None and not 0 <= p <= 1:
            raise InputError(f"a p-value is {p:g}; pass numbers from 0 to 1")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = largest
    return adjusted
