"""The table of a comparison that was stopped: of the runs that are finished, and it says so."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from selfexplain.cli import main
from selfexplain.experiments.compare import compare
from selfexplain.training.cost import Cost

WORDS = (
    *("compare", "--data", "digits", "--train-size", "100", "--batch-size", "50"),
    *("--epochs", "1", "--objectives", "standard", "introspective", "kd"),
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "run"
    main([*WORDS, "--seeds", "0", "1", "--out", str(out)])
    return out


def again(out: Path, *more: str) -> dict[str, Any]:
    main([*WORDS, "--out", str(out), "--finished-only", *more])
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


def test_of_a_finished_comparison_it_is_the_table(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(compared, out)
    before = json.loads((out / "results.json").read_text())
    (out / "results.json").unlink()
    assert again(out, "--seeds", "0", "1") == before


def test_what_is_missing_is_named(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(compared, out)
    (out / "runs" / "introspective-seed1" / "result.json").unlink()
    results = again(out, "--seeds", "0", "1", "2")
    missing = ["introspective with seed 1"]
    missing += [f"{name} with seed 2" for name in ("standard", "introspective", "kd")]
    assert results["config"]["unfinished"] == missing
    assert [line["n"] for line in results["summary"]] == [2, 1, 2]
    assert len(results["rows"]) == 5
    table = (out / "table.md").read_text()
    assert "UNFINISHED: 4 runs are missing (introspective with seed 1, standard with" in table
    assert not (out / "runs" / "standard-seed2").exists()
    assert "UNFINISHED" in (out / "report.html").read_text()
    many = again(out, "--seeds", "0", "1", "2", "3")
    assert len(many["config"]["unfinished"]) == 7
    assert (
        "7 runs are missing (3 of introspective, 2 of standard, 2 of kd)"
        in (out / "table.md").read_text()
    )


def test_costs_that_are_none_are_measured_anew(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(compared, out)
    path = out / "cost" / "seed0.json"
    kept = json.loads(path.read_text())
    del kept["sha256"]
    path.write_text(json.dumps({**kept, "introspective": 3}))
    results = again(out, "--seeds", "0", "1")
    assert "unfinished" not in results["config"]
    without = {(r["objective"], r["seed"]) for r in results["rows"] if "cost" not in r}
    assert without == {("introspective", 0)}
    path.write_text(json.dumps(dict.fromkeys(kept, 3)))
    main([*WORDS, "--seeds", "0", "1", "--out", str(out)])
    timed = json.loads(path.read_text())
    assert timed.keys() == {*kept, "sha256"}
    assert timed["standard"]["cost"] == 1.0


def test_runs_without_costs_are_a_table(compared: Path, tmp_path: Path) -> None:
    """A comparison that is broken off has runs, and no costs: they are timed last."""
    out = tmp_path / "copy"
    shutil.copytree(compared, out)
    before = json.loads((out / "results.json").read_text())
    shutil.rmtree(out / "cost")
    (out / "accuracy-cost.png").unlink()
    results = again(out, "--seeds", "0", "1")
    timing = {"cost", "total_cost", "step_seconds", "cost_ci95", "total_cost_ci95"}
    assert results["rows"] == [
        {k: v for k, v in row.items() if k not in timing} for row in before["rows"]
    ]
    table = (out / "table.md").read_text()
    assert "costs are not timed yet" in table
    assert "| standard |" in table
    assert "The costs are not timed yet" in (out / "report.html").read_text()
    assert not (out / "accuracy-cost.png").exists()
    for seed in (0, 1):  # of the first objective alone
        path = out / "cost" / f"seed{seed}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"standard": {"step_seconds": 0.5, "cost": 1.0}}))
    line = again(out, "--seeds", "0", "1")["summary"]
    assert ["cost" in each for each in line] == [True, False, False]
    assert (
        "cost in steps of the standard one, where it has been timed"
        in (out / "table.md").read_text()
    )


def test_costs_are_timed_after_the_runs(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(compared, out)
    shutil.rmtree(out / "cost")
    shutil.rmtree(out / "runs" / "standard-seed1")
    timed = []

    def interleaved(objectives: Any, *_: Any, **__: Any) -> dict[str, Cost]:
        assert (out / "runs" / "standard-seed1" / "result.json").exists()
        timed.append(list(objectives))
        return {name: Cost(step_seconds=0.1, ratio=1.0) for name in objectives}

    monkeypatch.setattr(compare, "interleaved_cost", interleaved)
    main([*WORDS, "--seeds", "0", "1", "--out", str(out)])
    assert timed == [["standard", "introspective", "kd"]] * 2


def test_it_can_be_continued(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(compared, out)
    shutil.rmtree(out / "runs" / "kd-seed0")
    assert again(out, "--seeds", "0", "1")["config"]["unfinished"] == ["kd with seed 0"]
    main([*WORDS, "--seeds", "0", "1", "--out", str(out)])
    results = json.loads((out / "results.json").read_text())
    assert "unfinished" not in results["config"]
    assert len(results["rows"]) == 6


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--seeds", "7"), "no run of standard is finished in"),
        (("--seeds", "0", "--tune", "2"), "no table of a tuned comparison"),
        (("--seeds", "0", "--introspective.weight", "0.9"), "weight was 0.3, is 0.9"),
        (("--seeds", "0", "--lr", "0.3"), "lr was 0.1, is 0.3"),
    ],
)
def test_bad_input_is_one_sentence(
    compared: Path, more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*WORDS, "--out", str(compared), "--finished-only", *more])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_a_comparison_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*WORDS, "--out", str(tmp_path / "absent"), "--finished-only"])
    assert "no run of standard is finished" in capsys.readouterr().err
    assert not (tmp_path / "absent" / "results.json").exists()
