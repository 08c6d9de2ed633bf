"""The premise of LeaSE: partial correlations, strata, and the verdict; the table of tiny201."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from studies.explain_better import (
    Part,
    blurred_noise,
    draw_cells,
    partial_correlation,
    shown_by,
    side_by_side,
    verdict,
)
from studies.tiny_nas import TinyConfig, all_cells
from studies.tiny_nas import run_study as run_tiny

from selfexplain.errors import InputError
from selfexplain.experiments.options import DataOptions
from selfexplain.lease import LeaSEOptions
from selfexplain.models import build_model
from selfexplain.spaces import from_string
from selfexplain.spaces.table import BenchmarkTable, MeasuredCell


def test_partial_correlation_is_that_of_the_residuals_and_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    c = rng.normal(size=40)
    a, b = c + rng.normal(size=40), 2 * c + rng.normal(size=40)
    ab, ac, bc = pearsonr(a, b)[0], pearsonr(a, c)[0], pearsonr(b, c)[0]
    r, (low, high) = partial_correlation(a, b, [c])
    assert r == pytest.approx((ab - ac * bc) / ((1 - ac**2) * (1 - bc**2)) ** 0.5)
    assert low < r < high
    plain, interval = partial_correlation(a, b)
    expected = pearsonr(a, b)
    assert plain == pytest.approx(expected.statistic)
    assert interval == pytest.approx(tuple(expected.confidence_interval()), abs=1e-6)
    with pytest.raises(InputError, match="4 cells are too few for 1 given columns"):
        partial_correlation(a[:4], b[:4], [c[:4]])


def row(i: int, heard: float) -> dict[str, Any]:
    noise = [0.3, -0.2, 0.1, -0.4, 0.25, 0.05, -0.15, 0.2, -0.3, 0.15][i % 10]
    return {
        "table": i + 10 * noise,
        "validation": i + noise**2,
        "log_flops": (7 * i % 10) / 10,
        "skips": i % 3,
        "arms": {
            "explanation": [i + heard * noise],
            "shuffled": [i + 0.1 * (3 * i % 7)],
        },
    }


@pytest.mark.parametrize(("heard", "go"), [(1.0, True), (-1.0, False)])
def test_go_is_said_of_an_audience_that_hears_more_than_the_cells_accuracy(
    heard: float, go: bool
) -> None:
    found = verdict([row(i, heard) for i in range(20)])
    assert found["go"] is go
    assert found["cells"] == 20


def test_cells_come_from_every_stratum() -> None:
    table = BenchmarkTable(
        MeasuredCell(
            arch=f"cell {i}", seeds=1, validation=0.0, test=float(i), seed_std=None,
            params_m=1.0, flops_m=1.0,
        )
        for i in range(30)
    )  # fmt: skip
    cells = draw_cells(table, 3, 4, seed=0)
    assert [int(cell.test) // 10 for cell in cells] == [0] * 4 + [1] * 4 + [2] * 4
    assert len({cell.arch for cell in cells}) == 12
    with pytest.raises(InputError, match="the table has 30 cells; pass fewer"):
        draw_cells(table, 3, 11, seed=0)


def test_what_is_shown_is_of_one_size_and_the_network_stays() -> None:
    torch.manual_seed(0)
    network = build_model("small_cnn", num_classes=4, in_channels=3).train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    part, std_C = Part(torch.randn(6, 3, 16, 16), torch.arange(6) % 4), torch.full((3,), 0.25)
    options = LeaSEOptions()
    shown = shown_by(network, part, std_C, options, seed=0)
    assert shown.shape == part.x_NCHW.shape
    assert network.training
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    shuffled = shown_by(network, part, std_C, LeaSEOptions(control="shuffled_delta"), seed=0)
    assert not torch.allclose(shown, shuffled)
    noise = blurred_noise(part, options, seed=0)
    sizes = [s.square().mean().sqrt() for s in (shown, noise)]
    assert float(sizes[1] / sizes[0]) == pytest.approx(1.0, rel=0.25)


def test_every_cell_of_tiny201_is_trained_once_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(set(all_cells())) == 125
    cells = list(all_cells())[::25]
    monkeypatch.setattr("studies.tiny_nas.all_cells", lambda: iter(cells))
    config = TinyConfig(
        data=DataOptions(data="digits"), out=tmp_path, learn=100, held_out=50, test=50, epochs=1,
        seeds=(0, 1), init_channels=2,
    )  # fmt: skip
    table = run_tiny(config)
    log = (tmp_path / "trainings.jsonl").read_text()
    assert set(table.cells) == set(cells)
    assert run_tiny(config).cells == table.cells
    assert (tmp_path / "trainings.jsonl").read_text() == log
    rows = [json.loads(line) for line in log.splitlines()]
    assert [(row["arch"], row["seed"]) for row in rows] == [(c, s) for s in (0, 1) for c in cells]
    own = [row["test"] for row in rows if row["arch"] == cells[3]]
    assert table.look_up(from_string(cells[3])).test == pytest.approx(sum(own) / 2)


def test_tasks_are_shared_among_processes() -> None:
    tasks = [1.0, 4.0, 9.0]
    assert list(side_by_side(math.sqrt, tasks, workers=1)) == [1.0, 2.0, 3.0]
    assert sorted(side_by_side(math.sqrt, tasks, workers=2)) == [1.0, 2.0, 3.0]
