"""Published cells and random ones of their size: what is drawn, trained and compared."""

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_rel
from studies.published_cells import (
    BASE_OF,
    BASES,
    PublishedConfig,
    cells_of,
    compared,
    markdown,
    parameters_of,
    run_study,
)

from selfexplain.errors import InputError
from selfexplain.experiments.options import DataOptions
from selfexplain.spaces import from_string
from selfexplain.training import TrainingOptions


def config(**options: Any) -> PublishedConfig:
    small: dict[str, Any] = {"data": DataOptions(data="digits", train_size=40), "out": Path("none")}
    small |= {"init_channels": 4, "cells": 3, "random_cells": 2, "tolerance": 0.2, "seeds": (0,)}
    return PublishedConfig(**small | options)


def test_random_cells_have_about_the_parameters_of_the_published_ones() -> None:
    cells = cells_of(config(tolerance=0.1))
    assert list(cells) == [*BASES, *BASE_OF, "random_0", "random_1"]
    sizes = {name: parameters_of(from_string(cell), 4, 3) for name, cell in cells.items()}
    mean = sum(sizes[name] for name in (*BASES, *BASE_OF)) / 8
    assert all(abs(sizes[f"random_{n}"] / mean - 1) <= 0.1 for n in (0, 1))
    with pytest.raises(InputError, match=r"only 0 random cells .* pass a larger --tolerance"):
        cells_of(config(tolerance=0.0, random_cells=1))


def test_each_cell_is_compared_with_its_base_and_both_groups() -> None:
    accuracy = {name: [1.0 * i, 2.0 * i + 1, 5.0] for i, name in enumerate((*BASES, *BASE_OF))}
    accuracy |= {"random_0": [4.0, 3.0, 2.0], "random_1": [2.0, 5.0, 4.0]}
    rows = compared(accuracy)
    assert [(row["cell"], row["against"]) for row in rows[:5]] == list(BASE_OF.items())
    own, base = accuracy["LeaSE_c100_darts"], accuracy["DARTS_V2"]
    assert rows[1]["p_value"] == pytest.approx(ttest_rel(own, base).pvalue)
    assert rows[1]["mean"] == pytest.approx((sum(own) - sum(base)) / 3)
    # three of five on DARTS, two on P-DARTS
    assert rows[5]["mean"] == pytest.approx(((5 + 11 + 5) - (0.4 + 1.8 + 5)) / 3)
    assert rows[6]["mean"] == pytest.approx(((5 + 11 + 5) - (3 + 4 + 3)) / 3)
    assert all(row["p_adjusted"] is None or row["p_adjusted"] >= row["p_value"] for row in rows)


def test_trainings_are_made_once_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.published_cells.BASES", ("DARTS_V2",))
    monkeypatch.setattr("studies.published_cells.BASE_OF", {"LeaSE_c10_darts": "DARTS_V2"})
    training = TrainingOptions(epochs=1, batch_size=20)
    study = config(out=tmp_path, training=training, random_cells=1, seeds=(0, 1))
    found = run_study(study)
    assert run_study(study) == found
    runs = {
        path.parent.name: json.loads(path.read_text()) for path in tmp_path.rglob("result.json")
    }
    assert len(runs) == 6
    by_cell = {row["cell"]: row["accuracy"] for row in found["rows"]}
    assert by_cell["random_0"] == [runs[f"random_0-seed{s}"]["accuracy"] for s in (0, 1)]
    table = markdown(found)
    assert table.count("| random_0 | ") == 1
    assert "| LeaSE_c10_darts | DARTS_V2 | " in table
