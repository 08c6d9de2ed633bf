"""What is clearly beaten, by brute force; the picture shows every method, labels apart."""

import itertools
import random
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from selfexplain.report import certain_front, cost_figure
from selfexplain.report.figures import not_beaten


def row(name: str, cost: float, accuracy: float, **more: float) -> dict[str, object]:
    return {"objective": name, "cost": cost, "accuracy_mean": accuracy, "accuracy_std": 0.3} | more


CROWD = [row(f"method:weight=0.{i}", 1 + 0.01 * (i % 3), 90 + 0.1 * (i // 3)) for i in range(9)]


def boxes(figure: Figure) -> list[Bbox]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    labels = [t for t in figure.axes[0].texts if isinstance(t, Annotation)]
    return [Text.get_window_extent(label, canvas.get_renderer()) for label in labels]


@pytest.mark.parametrize(
    "rows",
    [
        [row("standard", 1, 90), row("label_smoothing", 1.01, 90.02), row("cs_kd", 2, 91)],
        [row("standard", 1, 90)] * 3,
        CROWD,
    ],
)
def test_labels_do_not_overlap(rows: list[dict[str, object]]) -> None:
    figure = cost_figure(rows)
    found = boxes(figure)
    assert len(found) == len(rows)
    for a, b in itertools.combinations(found, 2):
        assert Bbox.intersection(a, b) is None
    frame = figure.axes[0].bbox
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in found)


def known(name: str, cost: float, accuracy: float, half: float = 0.01, n: int = 5) -> Any:
    return row(name, cost, accuracy, n=n) | {"cost_ci95": (cost - half, cost + half)}


def lines(rows: Any) -> list[Any]:
    return [x for x in cost_figure(rows).axes[0].lines if x.get_label() == "Pareto front"]


def test_front_is_the_line_that_is_drawn() -> None:
    rows = [known("a", 2, 90), known("b", 1, 91), known("c", 3, 92)]
    [line] = lines(rows)
    assert line.get_xydata().tolist() == [[1, 91], [3, 92]]
    assert certain_front(rows) == ([1, 2], True)


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        ([row("a", 1, 90, n=5), row("b", 2, 95, n=5)], [0, 1]),  # timed by an older version
        ([known("a", 1, 90), known("b", 1.02, 95)], [0, 1]),  # costs touch at 1.01
        ([known("a", 1, 90), known("b", 2, 90.7)], [0, 1]),  # accuracies do: +- 0.37
        ([known("a", 1, 90, n=1), known("b", 2, 95, n=1)], [0, 1]),  # one seed
        ([known("a", 1, 95), known("b", 1.01, 90), known("c", 2, 91)], [0, 1]),
    ],
)
def test_no_front_is_claimed_where_intervals_touch(rows: Any, places: list[int]) -> None:
    assert certain_front(rows) == (places, False)
    assert not lines(rows)
    legend = cost_figure(rows).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["filled: not clearly beaten in both"]


def test_not_beaten_by_brute_force() -> None:
    generator = random.Random(1)
    for _ in range(200):
        n = generator.randint(1, 7)
        ends = [sorted(generator.sample(range(12), 2)) for _ in range(2 * n)]
        costs, accuracies = (
            [None if generator.random() < 0.1 else (float(a), float(b)) for a, b in half]
            for half in (ends[:n], ends[n:])
        )
        expected = []
        for i in range(n):
            rivals = [
                j
                for j in range(n)
                if None not in (costs[i], costs[j], accuracies[i], accuracies[j])
                and max(costs[j]) < min(costs[i])  # type: ignore[arg-type]
                and min(accuracies[j]) > max(accuracies[i])  # type: ignore[arg-type]
            ]
            expected += [] if rivals else [i]
        assert not_beaten(costs, accuracies) == expected


def test_cost_of_teachers_counts_where_it_is_known() -> None:
    rows = [row("a", 1, 90, total_cost=1.0), row("b", 1, 91, total_cost=9.0)]
    axes = cost_figure(rows).axes[0]
    assert axes.get_xscale() == "log"
    assert "all training" in axes.get_xlabel()
    del rows[0]["total_cost"]
    axes = cost_figure(rows).axes[0]
    assert axes.get_xscale() == "linear"
    assert "a step" in axes.get_xlabel()


def test_dollars_in_a_name_are_no_formula() -> None:
    figure = cost_figure([row("kd:teacher=$\\y$", 1, 90), row("b", 9, 91)])
    FigureCanvasAgg(figure).draw()
    assert "kd:teacher=$\\y$" in [text.get_text() for text in figure.axes[0].texts]
    ticks = figure.axes[0].get_xticklabels()
    assert all(tick.get_parse_math() for tick in ticks)  # the powers of a logarithmic axis are


def test_one_seed_has_no_bar() -> None:
    figure = cost_figure([row("a", 1, 90) | {"accuracy_std": None}])
    assert not figure.axes[0].collections
