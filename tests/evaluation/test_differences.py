"""Paired differences against scipy, corrections against a plain formulation."""

import itertools
import random
import statistics

import pytest
from scipy import stats

from selfexplain.errors import InputError
from selfexplain.evaluation import holm, paired_difference
from selfexplain.evaluation.statistics import mean_interval, median_interval

A, B = [90.1, 91.0, 89.7, 92.3], [89.0, 90.5, 90.0, 91.0]


@pytest.mark.parametrize("comparisons", [1, 3])
def test_paired_difference_equals_scipy(comparisons: int) -> None:
    ours, theirs = paired_difference(A, B, comparisons=comparisons), stats.ttest_rel(A, B)
    alone = theirs.confidence_interval(0.95)
    together = theirs.confidence_interval(1 - 0.05 / comparisons)
    assert ours.mean == pytest.approx(sum(A) / 4 - sum(B) / 4)
    assert ours.ci95 == pytest.approx((alone.low, alone.high))
    assert ours.simultaneous95 == pytest.approx((together.low, together.high))
    assert ours.p_value == pytest.approx(theirs.pvalue)


def test_one_pair_says_nothing() -> None:
    one = paired_difference([2.0], [1.0])
    assert (one.ci95, one.simultaneous95, one.p_value) == (None, None, None)


def test_differences_without_spread() -> None:
    """0.1 + 0.2 and the like: equal up to rounding is no spread."""
    assert paired_difference([0.3, 0.5], [0.1 + 0.2, 0.5]).p_value == 1
    assert paired_difference([0.3, 1.3], [0.2, 1.2]).p_value is None


@pytest.mark.parametrize(
    ("values", "baseline", "comparisons"), [([1.0], [1.0, 2.0], 1), ([], [], 1), ([1.0], [1.0], 0)]
)
def test_what_cannot_be_paired(
    values: list[float], baseline: list[float], comparisons: int
) -> None:
    with pytest.raises(InputError, match="for every seed"):
        paired_difference(values, baseline, comparisons=comparisons)


def rejected(p_values: list[float], level: float) -> set[int]:
    """Holm's procedure as he put it: step down until a p-value is too large."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    steps = itertools.takewhile(
        lambda step: p_values[step[1]] <= level / (len(p_values) - step[0]), enumerate(order)
    )
    return {i for _, i in steps}


def test_holm_rejects_what_the_procedure_rejects() -> None:
    generator = random.Random(0)
    seen = set()
    for _ in range(300):
        p_values = [generator.random() ** 3 for _ in range(generator.randint(1, 6))]
        adjusted = holm(p_values)
        level = generator.choice([0.01, 0.05, 0.2])
        mine = {i for i, p in enumerate(adjusted) if p <= level}
        assert mine == rejected(p_values, level)
        seen.add(len(mine))
    assert len(seen) > 3


def test_holm_lies_between_no_correction_and_bonferroni() -> None:
    p_values = [0.5, 0.001, 0.02, 0.02]
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        assert p <= adjusted <= min(1, 4 * p)
    assert holm(p_values) == pytest.approx([0.5, 0.004, 0.06, 0.06])  # by hand


def test_a_test_that_could_not_be_made_still_counts() -> None:
    assert holm([0.01, None]) == [0.02, None]
    assert holm([]) == []


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        holm([p])


# Intervals of one method's numbers.


def test_interval_of_a_mean_is_that_of_scipy() -> None:
    values = [90.0, 91.5, 90.7, 92.0]
    mean, std = statistics.fmean(values), statistics.stdev(values)
    expected = stats.t.interval(0.95, 3, mean, std / 2)
    assert mean_interval(mean, std, 4) == pytest.approx(expected)
    assert mean_interval(mean, None, 4) is None
    assert mean_interval(mean, std, 1) is None


def test_interval_of_a_median_is_that_of_the_binomial() -> None:
    for n in range(1, 120):
        values = list(range(n))
        k = int(stats.binom.ppf(0.025, n, 0.5))
        k += stats.binom.cdf(k, n, 0.5) <= 0.025  # ties of the quantile
        found = median_interval(values[::-1])
        if n < 6:
            assert found is None
        else:
            assert found == (k - 1, n - k)
            assert stats.binom.cdf(k - 1, n, 0.5) <= 0.025
            assert stats.binom.cdf(k, n, 0.5) > 0.025
