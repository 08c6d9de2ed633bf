"""What the first line says: no more than the statistics carry."""

from typing import Any

import pytest

from selfexplain.report.verdicts import (
    comparison_verdict,
    origin,
    search_verdict,
    searches_verdict,
    study_verdict,
)


def row(
    name: str, mean: float | None = None, half: float = 0.2, p: float | None = 0.5, n: int = 3
) -> dict[str, Any]:
    return {
        "objective": name,
        "n": n,
        "accuracy_mean": 90.0,
        "difference_mean": mean,
        "difference_ci95": None if mean is None or n < 2 else (mean - half, mean + half),
        "difference_p": p,
        "difference_p_holm": p,
    }


def line(*others: dict[str, Any], n: int = 3, **config: Any) -> str:
    results = {"config": config, "summary": [row("label_smoothing", 0.0, p=None, n=n), *others]}
    return comparison_verdict(results).line


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (
            [row("introspective", 0.61, p=0.01)],
            "introspective beats label smoothing by 0.6 ± 0.2 points",
        ),
        ([row("kd", -0.61, p=0.01)], "kd loses to label smoothing by 0.6 ± 0.2 points"),
        ([row("kd", 0.04, 0.02, p=0.01)], "kd beats label smoothing by 0.04 ± 0.02 points"),
        ([row("kd", 3.0, 2.9, p=0.05)], "No difference is proven"),
        ([row("kd", 3.0, p=None)], "No difference is proven"),
        ([row("kd", None, p=None)], "No difference is proven"),
        (
            [row("cs_kd", -1.0, p=0.01), row("c", 9.0), row("kd:t_t=1", 1.0, p=0.01)],
            "kd:t_t=1 beats label smoothing by 1.0 ± 0.2 points, CS-KD loses to it by 1.0 ± 0.2",
        ),
        (
            [row(f"m{i}", 9.0 - i, p=0.01) for i in range(5)],
            "m0 beats label smoothing by 9.0 ± 0.2 points, m1 by 8.0 ± 0.2, "
            "m2 by 7.0 ± 0.2, and 2 more differ",
        ),
        ([], "label smoothing: 90.00 % correct, compared with nothing"),
    ],
)
def test_first_line(others: list[dict[str, Any]], said: str) -> None:
    assert line(*others) == said


def test_what_is_unfinished_is_said_first() -> None:
    missing = ["kd with seed 1"]
    assert line(row("kd", 1.0), unfinished=missing) == "Unfinished: no difference is proven"
    assert line(row("Mine", 1.0, p=0.01), unfinished=missing).startswith("Unfinished: Mine beats")
    results = {"config": {"unfinished": missing}, "summary": [row("a"), row("kd", 1.0)]}
    assert "One run is missing (kd with seed 1)." in comparison_verdict(results).detail


def test_one_seed_proves_nothing() -> None:
    results = {"summary": [row("a", n=1, p=None), row("b", 5.0, n=1, p=None)]}
    verdict = comparison_verdict(results)
    assert verdict.line == "No difference is proven"
    assert "The greatest is that of b to a: +5.00 points." in verdict.detail
    assert "nothing is tested" in verdict.detail


def test_the_detail_names_test_and_correction() -> None:
    results = {"summary": [row("a"), row("b", 1.0, p=0.2), row("c", -2.0, p=0.01)]}
    detail = comparison_verdict(results).detail
    assert detail.startswith(
        "No difference is proven for b. Paired t-tests over 3 seeds at 5\N{NO-BREAK SPACE}%"
    )
    assert "Holm's correction for 2 comparisons" in detail


@pytest.mark.parametrize(
    ("ci95", "said"),
    [
        ((0.5, 1.5), "The whole teacher adds 1.0 ± 0.5 points"),
        ((-1.5, -0.5), "The whole teacher costs 1.0 ± 0.5 points"),
        ((-0.1, 0.3), "No gain from the teacher is proven"),
        (None, "No gain from the teacher is proven"),
    ],
)
def test_study(ci95: tuple[float, float] | None, said: str) -> None:
    gain = 0.0 if ci95 is None else sum(ci95) / 2
    parts = [("plain", None), ("full", ci95), ("true", (0.1, 0.2)), ("others", (-0.1, 0.2))]
    rows = [
        {"part": part, "n": 2, "gain_mean": gain, "gain_ci95": interval} for part, interval in parts
    ]
    verdict = study_verdict({"rows": rows})
    assert verdict.line == said
    assert "Of its parts alone, true bring" in verdict.detail


def test_searches() -> None:
    found = {"skips": 5, "edges": 6, "collapsed": True}
    assert search_verdict(found, 9, 9).line.startswith("The search collapsed: a cell with 5 skip")
    assert search_verdict(None, 2, 9).line == "Not finished: 2 of 9 epochs are done"
    summary = {"n": 3, "different_cells": 2, "collapsed": 1, "skips_mean": 1.0, "skips_std": None}
    said = searches_verdict({"summary": {**summary, "validation_accuracy_mean": None}})
    assert said.line == "2 different cells from 3 seeds; 1 of the searches collapsed"


def test_origin_says_what_was_recorded() -> None:
    environment = {"commit": f"{'ab' * 20}-dirty", "date": "yesterday", "command": "selfexplain x"}
    images = {"train": 9, "shape": [3, 4, 5], "class_names": ["a"]}
    assert origin(environment, "folder:x", images) == {
        "Command": "selfexplain x",
        "Date": "yesterday",
        "Commit": "abababababab, with changes",
        "Images": "folder:x, 9 to train, 4 x 5 pixels, colour, 1 class",
    }
    assert origin({}, "", {}) == {}
