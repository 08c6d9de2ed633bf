"""The interval of a ratio against its definition, and where there is none."""

import numpy as np
import pytest
from scipy import stats

from selfexplain.evaluation.statistics import share_of

PARTS = (0.5, 0.9, 0.4, 0.7)
WHOLES = (1.1, 1.6, 0.9, 1.5)


def p_value(ratio: float) -> float:
    """Of the hypothesis that the parts are this share of the wholes."""
    residuals = np.array(PARTS) - ratio * np.array(WHOLES)
    return float(stats.ttest_1samp(residuals, 0.0).pvalue)


def test_interval_ends_where_students_t_begins_to_reject() -> None:
    share = share_of(PARTS, WHOLES)
    assert share.ratio == pytest.approx(sum(PARTS) / sum(WHOLES))
    assert share.ci95 is not None
    assert [p_value(end) for end in share.ci95] == pytest.approx([0.05, 0.05])
    assert share.ci95[0] < share.ratio < share.ci95[1]
    assert p_value(share.ratio) == pytest.approx(1.0)


def test_the_whole_is_all_of_itself() -> None:
    share = share_of(WHOLES, WHOLES)
    assert share.ci95 == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("wholes", [(0.1, -0.2, 0.3, -0.1), tuple(-x for x in WHOLES)])
def test_no_share_of_what_is_not_clearly_a_gain(wholes: tuple[float, ...]) -> None:
    assert share_of(PARTS, wholes).ratio is None
    assert share_of(PARTS, wholes).ci95 is None


def test_one_seed_has_no_interval() -> None:
    assert share_of([1.0], [2.0]).ci95 is None
