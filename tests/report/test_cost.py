"""The Pareto front by brute force; the picture shows every method, labels apart."""

import itertools
import random

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from selfexplain.report import cost_figure, pareto_front


def dominated(i: int, costs: list[float], accuracies: list[float]) -> bool:
    return any(
        costs[j] <= costs[i]
        and accuracies[j] >= accuracies[i]
        and (costs[j], accuracies[j]) != (costs[i], accuracies[i])
        for j in range(len(costs))
    )


def test_front_by_brute_force() -> None:
    generator = random.Random(0)
    for _ in range(300):
        n = generator.randint(1, 8)
        # Few values, so that there are ties in one number and in both.
        costs, accuracies = ([float(generator.randint(0, 4)) for _ in range(n)] for _ in range(2))
        front = pareto_front(costs, accuracies)
        assert sorted(front) == [i for i in range(n) if not dominated(i, costs, accuracies)]
        assert [costs[i] for i in front] == sorted(costs[i] for i in front)


def test_nothing_has_no_front() -> None:
    assert pareto_front([], []) == []


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


def test_front_is_the_line_that_is_drawn() -> None:
    rows = [row("a", 2, 90), row("b", 1, 91), row("c", 3, 92)]
    line = next(x for x in cost_figure(rows).axes[0].lines if x.get_label() == "Pareto front")
    assert line.get_xydata().tolist() == [[1, 91], [3, 92]]


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
