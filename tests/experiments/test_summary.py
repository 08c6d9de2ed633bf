"""The summary of a comparison against scipy."""

import statistics

import pytest
from scipy import stats

from selfexplain.experiments.compare.compare import SCORES, paired_accuracies, summarise
from selfexplain.report.tables import comparison_markdown

ACCURACIES = {"a": [90.0, 91.0, 89.5], "b": [92.0, 92.5, 92.0], "c": [90.5, 91.0, 91.0]}


def rows() -> list[dict[str, object]]:
    return [
        {"objective": name, "seed": seed, "cost": 1.0 + seed}
        | dict.fromkeys(SCORES, 0.1 * seed)
        | {"accuracy": values[seed]}
        for seed in range(3)
        for name, values in ACCURACIES.items()
    ]


def test_differences_are_tested_and_corrected() -> None:
    first, *others = summarise(rows(), ("a", "b", "c"))
    assert first["difference_mean"] == 0
    assert first["difference_p"] is None
    tests = [stats.ttest_rel(ACCURACIES[name], ACCURACIES["a"]) for name in "bc"]
    for line, test in zip(others, tests, strict=True):
        low, high = test.confidence_interval(1 - 0.05 / 2)
        assert line["difference_simultaneous95"] == pytest.approx((low, high))
        assert line["difference_p"] == pytest.approx(test.pvalue)
    assert tests[0].pvalue < tests[1].pvalue
    assert others[0]["difference_p_holm"] == pytest.approx(2 * tests[0].pvalue)
    assert others[1]["difference_p_holm"] == pytest.approx(
        max(2 * tests[0].pvalue, tests[1].pvalue)
    )


def test_means_and_spreads_of_what_all_rows_have() -> None:
    given = rows()
    line = summarise(given, ("a", "b", "c"))[0]
    assert line["accuracy_std"] == statistics.stdev(ACCURACIES["a"])
    assert line["aurc_mean"] == pytest.approx(0.1)
    assert line["cost"] == 2
    assert "total_cost" not in line
    for row in given:
        row["total_cost"] = 3.0
    del given[0]["aurc"]  # an older run
    line = summarise(given, ("a", "b", "c"))[0]
    assert line["total_cost"] == 3
    assert "aurc_mean" not in line


def test_one_objective_and_one_seed() -> None:
    only = summarise(rows()[:1], ("a",))[0]
    assert (only["n"], only["accuracy_std"], only["difference_ci95"]) == (1, None, None)
    assert only["difference_p_holm"] is None


def test_differences_are_over_the_seeds_that_both_have() -> None:
    given = [r for r in rows() if (r["objective"], r["seed"]) not in {("a", 0), ("b", 1)}]
    given = [r for r in given if r["objective"] != "c" or r["seed"] == 0]
    first, second, third = summarise(given, ("a", "b", "c"))
    assert (first["n"], second["n"], third["n"]) == (2, 2, 1)
    assert second["difference_mean"] == pytest.approx(92.0 - 89.5)
    assert second["difference_ci95"] is None
    assert third["difference_mean"] is None
    assert third["difference_p_holm"] is None
    text = comparison_markdown({"summary": [first, second, third]})
    assert "| +2.50 |" in text
    assert "| unknown |" in text


def test_pairs_are_those_of_seeds_that_both_objectives_have() -> None:
    given = rows()[:-1]  # without the last seed of c
    assert paired_accuracies(given, "a", "c") == {0: (90.0, 90.5), 1: (91.0, 91.0)}
