"""The study of distillation: one teacher a seed, a table, a picture, and shares of the gain."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from selfexplain.cli import main, parse
from selfexplain.experiments.compare.study_kd import StudyKDConfig, part_spec, study_of
from selfexplain.experiments.fit.teacher import run_folder
from selfexplain.objectives.options import PARTS
from selfexplain.report import study_figure, study_markdown, study_table

pytestmark = pytest.mark.slow

WORDS = ("study-kd", "--data", "digits", "--train-size", "100", "--batch-size", "50")
FEW = ("--objectives", "standard", "distil_part", "distil_part:part=uniform")


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "run"
    main([*WORDS, *FEW, "--epochs", "1", "--seeds", "0", "1", "--out", str(out)])
    return out


def test_study_leaves_a_table_a_picture_and_numbers(studied: Path) -> None:
    study = json.loads((studied / "study.json").read_text())
    assert [row["part"] for row in study["rows"]] == ["plain", "full", "uniform"]
    assert "| uniform |" in (studied / "table.md").read_text()
    with Image.open(studied / "study.png") as picture:
        assert picture.width > 500
    names = {p.name for p in (studied / "teachers").iterdir() if p.is_dir()}
    assert names == {"standard-seed0", "standard-seed1"}


def scores(out: Path) -> list[dict[str, Any]]:
    """Of the runs of the first seed."""
    rows = json.loads((out / "results.json").read_text())["rows"]
    timed = ("cost", "total_cost", "cost_ci95", "total_cost_ci95", "step_seconds")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows if row["seed"] == 0]


@pytest.mark.parametrize("spread", [("--workers", "2"), ("--cluster", "ray", "--workers", "1")])
def test_study_is_the_same_however_it_is_spread(
    spread: tuple[str, ...], studied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker processes, and a Ray cluster that the command starts; students share their teacher.

    Its folder is relative to the one that the command is started in.
    """
    if "ray" in spread:
        pytest.importorskip("ray", reason="the ray extra is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in this process (conftest.py)
    monkeypatch.chdir(tmp_path)
    main([*WORDS, *FEW, "--epochs", "1", "--seeds", "0", "--out", "run", *spread])
    out = tmp_path / "run"
    assert scores(out) == scores(studied)
    weights = [f.relative_to(out) for f in out.rglob("*-seed0/model.safetensors")]
    assert len(weights) == len(FEW)  # of the objectives and of the teacher
    assert all((out / f).read_bytes() == (studied / f).read_bytes() for f in weights)
    assert (out / "study.json").exists()
    assert [p.name for p in (out / "teachers").iterdir() if p.is_dir()] == ["standard-seed0"]


def test_given_teacher_teaches_all_students(studied: Path, tmp_path: Path) -> None:
    out = tmp_path / "given"
    teacher = str(studied / "teachers" / "standard-seed0")
    more = ("--epochs", "1", "--seeds", "0", "--teacher", teacher, "--out", str(out))
    main([*WORDS, *FEW, *more])
    assert not (out / "teachers").exists()
    rows = [json.loads((p / "study.json").read_text())["rows"] for p in (out, studied)]
    assert rows[0][1]["n"] == 1
    assert rows[0][1]["gain_ci95"] is None
    assert rows[1][1]["gain_ci95"] is not None


def test_by_default_all_parts_are_studied() -> None:
    command = parse(WORDS)
    assert isinstance(command, StudyKDConfig)
    assert command.objectives == ("standard", *map(part_spec, PARTS))
    assert command.training.epochs == 10
    assert command.out.name.startswith("study-kd-digits-small_cnn-")


def results(**accuracy: list[float]) -> dict[str, Any]:
    """A study's results; the accuracies of an objective are of seeds 0, 1, ..."""
    rows = [
        {
            "objective": spec.replace("uniform", "distil_part:part=uniform"),
            "seed": seed,
            "accuracy": a,
        }
        for spec, values in accuracy.items()
        for seed, a in enumerate(values)
    ]
    summary = [
        {
            "objective": spec,
            "n": 3,
            "accuracy_mean": 90.0,
            "accuracy_std": 1.0,
            "difference_mean": 1.0,
            "difference_ci95": (0.5, 1.5),
            "nll_mean": 0.3,
            "nll_std": 0.1,
        }
        for spec in dict.fromkeys(row["objective"] for row in rows)
    ]
    return {"rows": rows, "summary": summary, "config": {"objectives": list(FEW[1:])}}


def test_share_is_of_the_gain_of_the_whole_teacher() -> None:
    found = study_of(
        results(standard=[90, 91, 92], distil_part=[92, 93.1, 93.9], uniform=[91, 92, 93])
    )
    assert found["rows"][1]["share"] == pytest.approx(1.0)
    assert found["rows"][2]["share"] == pytest.approx(0.5)
    low, high = found["rows"][2]["share_ci95"]
    assert 0.4 < low < 0.5 < high < 0.6
    assert f"| 50 ({100 * low:.0f} to {100 * high:.0f}) |" in study_markdown(found)
    assert study_table(found).row_count == 3


def test_no_share_where_the_whole_teacher_brings_no_gain() -> None:
    found = study_of(
        results(standard=[90, 91, 92], distil_part=[90.5, 91, 91], uniform=[91, 92, 93])
    )
    assert [row["share"] for row in found["rows"]] == [None] * 3
    assert "not clearly above 0" in study_markdown(found)


def test_gains_are_paired_by_seed_whatever_the_order_of_the_runs() -> None:
    made = results(standard=[90, 91, 92], distil_part=[92, 93.1, 93.9], uniform=[91, 92, 93])
    turned = {**made, "rows": made["rows"][::-1]}
    turned["rows"].sort(key=lambda row: row["objective"] == "standard")
    expected, found = study_of(made)["rows"], study_of(turned)["rows"]
    assert [row["share"] for row in found] == pytest.approx([row["share"] for row in expected])


def finished(studied: Path, out: Path, lacking: list[tuple[str, int]]) -> dict[str, dict[str, Any]]:
    """Rows, by part, of a study that lacks some runs."""
    shutil.copytree(studied, out)
    for spec, seed in lacking:
        (run_folder(out, spec, seed) / "result.json").unlink()
    more = ("--epochs", "1", "--seeds", "0", "1", "--finished-only", "--out", str(out))
    main([*WORDS, *FEW, *more])
    return {row["part"]: row for row in json.loads((out / "study.json").read_text())["rows"]}


def test_of_an_unfinished_study_without_full_there_are_no_shares(
    studied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    rows = finished(studied, out, [("distil_part", 0), ("distil_part", 1)])
    assert list(rows) == ["plain", "uniform"]
    assert rows["uniform"]["gain_mean"] is not None
    assert rows["uniform"]["share"] is None
    missing = "UNFINISHED: 2 runs are missing (distil_part with seed 0, distil_part with seed 1)"
    table = (out / "table.md").read_text()
    assert missing in table
    assert "no shares, because no seed has finished both full and plain" in table
    said = f"{missing}; mean ± std over 2 seeds; gain in accuracy over plain training"
    assert said in (out / "report.html").read_text()
    assert "UNFINISHED" in capsys.readouterr().out


def test_a_gain_is_of_the_seeds_that_both_have(studied: Path, tmp_path: Path) -> None:
    whole = json.loads((studied / "study.json").read_text())["rows"]
    out = tmp_path / "copy"
    rows = finished(studied, out, [("standard", 0)])
    accuracy = {
        (row["objective"], row["seed"]): row["accuracy"]
        for row in json.loads((studied / "results.json").read_text())["rows"]
    }
    gain = accuracy["distil_part", 1] - accuracy["standard", 1]
    assert rows["full"]["gain_mean"] == pytest.approx(gain)
    assert rows["full"]["accuracy_mean"] == whole[1]["accuracy_mean"]
    assert rows["full"]["share"] is None
    assert "UNFINISHED: one run is missing (standard with seed 0)" in (out / "table.md").read_text()


def test_without_a_shared_seed_the_gain_is_blank(studied: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    lacking = [("standard", 0), ("distil_part", 1), ("distil_part:part=uniform", 1)]
    rows = finished(studied, out, lacking)
    assert [row["gain_mean"] for row in rows.values()] == [0.0, None, None]
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split("|")[3:5] for line in lines[3:5]] == [["  ", "  "]] * 2
    axes = study_figure({"rows": list(rows.values())}).axes[0]
    assert len(axes.patches) == 0
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["full", "uniform"]
    assert axes.get_ylim() == (1.5, -0.5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--objectives", "distil_part", "standard"), "pass standard distil_part first"),
        (("--distil-part.part", "uniform"), "leave out --distil-part.part"),
        (("--teacher", "absent"), "absent contains no finished run"),
        ((*FEW[:3], "distil_part:part=half"), "pass one of full"),
        (("--distil-part.alpha", "2"), "alpha is 2"),
    ],
)
def test_bad_input_is_one_sentence(
    more: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*WORDS, "--out", str(tmp_path / "out"), *more])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
