"""What people see: the table fits a terminal, the picture shows what it says."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from selfexplain.report import (
    comparison_markdown,
    comparison_table,
    explanation_figure,
    save_figure,
    study_figure,
)


def summary_row(name: str, difference: float) -> dict[str, object]:
    return {
        "objective": name,
        "n": 3,
        "accuracy_mean": 90.123,
        "accuracy_std": 0.456,
        "difference_mean": difference,
        "difference_ci95": (difference - 0.25, difference + 0.25),
        "nll_mean": 0.3217,
        "nll_std": 0.0123,
        "ece_mean": 12.34,
        "ece_std": 0.56,
        "cost": 1.034,
    }


def shown(results: dict[str, object]) -> str:
    file = io.StringIO()
    Console(file=file, width=80).print(comparison_table(results))
    text = file.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 80
    return text


def test_table_fits_eighty_columns_and_says_what_it_holds() -> None:
    rows = [summary_row("standard", 0.0), summary_row("confidence_penalty", -1.5)]
    text = shown({"summary": rows})
    assert "confidence_penalty" in text
    for cell in ("90.12 ± 0.46", "-1.50 ± 0.25", "0.322 ± 0.012", "12.3 ± 0.6", "1.03"):
        assert cell in text
    assert "difference in accuracy to standard" in " ".join(text.split())


def with_p_values(p_values: list[float]) -> dict[str, object]:
    rows = [summary_row("standard", 0.0)]
    for i, p in enumerate(p_values):
        rows.append(summary_row(f"m{i}", -1.5 - i) | {"difference_p": p / 2})
        rows[-1]["difference_p_holm"] = p
    return {"summary": rows}


def test_table_stars_what_survives_the_correction() -> None:
    text = shown(with_p_values([0.04, 0.06]))
    assert "-1.50 ± 0.25*" in text
    assert "-2.50 ± 0.25*" not in text
    said = " ".join(text.split())
    assert "starred: p < 0.05 in a paired t-test, after Holm's correction for 2 comparisons" in said
    assert "-1.50 ± 0.25* |" in comparison_markdown(with_p_values([0.04, 0.06]))


def test_table_says_that_nothing_survives() -> None:
    text = " ".join(shown(with_p_values([0.06])).split())
    assert "no difference has p < 0.05 in a paired t-test, after" in text
    assert "*" not in text
    alone = with_p_values([0.06])
    for row in alone["summary"]:
        row["difference_p"] = row["difference_p_holm"] = None  # one seed: no test was made
    assert "t-test" not in shown(alone)


def test_table_with_corruptions_fits_eighty_columns() -> None:
    results = with_p_values([0.04])
    results["summary"][1]["objective"] = "confidence_penalty"
    for row in results["summary"]:
        row |= {"corrupted_accuracy_mean": 71.26, "corrupted_accuracy_std": 1.04}
    text = shown(results)
    for cell in ("confidence_penalty", "71.3 ± 1.0", "0.322", "12.3", "1.03"):
        assert cell in text
    assert "± 0.012" not in text
    assert "| 0.322 ± 0.012 | 12.3 ± 0.6 | 71.3 ± 1.0 | 1.03 |" in comparison_markdown(results)


def test_table_says_how_options_were_chosen() -> None:
    tuning = {"trials": 8, "tuner": "random", "validation": 0.1, "seed": 7}
    tuning["objectives"] = [
        {"objective": "standard", "chosen": "standard", "trials": []},
        {"objective": "a", "chosen": "a:weight=0.2", "trials": [{}] * 8},
        {"objective": "b", "chosen": "b", "trials": [{}] * 8},
    ]
    text = " ".join(shown(with_p_values([0.06]) | {"config": {"tuning": tuning}}).split())
    assert "the best of 8 trials each (random search)" in text
    assert "on 10 % of the training images, held out: a:weight=0.2, b as it was given" in text
    assert "nothing to tune: standard" in text


def figure(classes: int = 5, channels: int = 3) -> object:
    torch.manual_seed(0)
    target = torch.zeros(2, classes)
    target[0, 1], target[0, 3], target[1, 0] = 0.3, 0.7, 1.0
    return explanation_figure(
        torch.rand(2, channels, 8, 8),
        torch.randn(2, classes, 4, 4),
        target,
        torch.tensor([2, 1]),
        [f"class {k}" for k in range(classes)],
        ["first", "second"],
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_orders_rivals_by_the_soft_target(channels: int) -> None:
    axes = figure(channels=channels).axes
    titles = [a.get_title() for a in axes[:6]]
    assert titles[:4] == ["first", "class 2", "class 3", "class 1"]
    assert titles[5] == "soft target"
    bars = [bar.get_width() for bar in axes[5].patches]
    assert bars[:2] == pytest.approx([0.7, 0.3])
    assert [label.get_text() for label in axes[5].get_yticklabels()][:2] == ["class 3", "class 1"]


def test_two_classes_have_one_rival() -> None:
    torch.manual_seed(0)
    made = explanation_figure(
        torch.rand(1, 1, 8, 8),
        torch.randn(1, 2, 2, 2),
        torch.tensor([[0.0, 1.0]]),
        torch.tensor([0]),
        ["cat", "dog"],
        ["cat"],
    )
    assert [a.get_title() for a in made.axes] == ["cat", "cat", "dog", "soft target"]


def test_dollars_in_a_name_are_no_formula(tmp_path: Path) -> None:
    name = "$\\y$"
    pixels, target = torch.rand(1, 1, 8, 8), torch.tensor([[0.0, 1.0]])
    part = {"part": name, "n": 1, "gain_mean": 1.0, "gain_ci95": None}
    for number, made in enumerate(
        [
            explanation_figure(
                pixels, torch.randn(1, 2, 2, 2), target, torch.tensor([0]), [name] * 2, [name]
            ),
            study_figure({"rows": [part]}),
        ]
    ):
        save_figure(made, tmp_path / f"{number}.png")
        assert name in [label.get_text() for label in made.axes[-1].get_yticklabels()]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_picture_is_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"picture.{ending}"
    save_figure(figure(), path)
    assert path.stat().st_size > 1000
    if ending == "png":
        with Image.open(path) as picture:
            assert picture.width > picture.height
