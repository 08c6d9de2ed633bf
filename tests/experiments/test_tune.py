"""Tuning before a comparison: equal trials, on held-out images, none run twice."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selfexplain.cli import main
from selfexplain.experiments.compare import grid as trials
from selfexplain.experiments.compare.compare import run_comparison
from selfexplain.experiments.compare.grid import TrialResult, run_trial
from selfexplain.experiments.compare.tune import SEED, tuned
from selfexplain.experiments.options import CompareConfig, DataOptions, TrainConfig
from selfexplain.training import TrainingOptions
from selfexplain.training.loop import DivergedError

SPECS = ("standard", "label_smoothing", "introspective:control=permuted")


def config(out: Path, **more: Any) -> CompareConfig:
    options = {"objectives": SPECS, "seeds": (0,), "tune": 4, "robustness": True} | more
    data = options.pop("data", DataOptions(data="digits", train_size=100))
    training = TrainingOptions(epochs=1, batch_size=50)
    return CompareConfig(data=data, training=training, out=out, **options)


class Runner:
    """Stands for training: accuracy and NLL by a function of the spec."""

    def __init__(self, outcome: Any) -> None:
        self.outcome, self.calls = outcome, []

    def __call__(self, configs: Sequence[TrainConfig]) -> list[TrialResult]:
        self.calls.append(list(configs))
        return [self.outcome(one.objective) for one in configs]


def smoothing(spec: str) -> float:
    return float(spec.partition("smoothing=")[2] or 0.1)


def test_every_method_gets_the_same_trials_on_held_out_images(tmp_path: Path) -> None:
    run = Runner(lambda spec: {"accuracy": 90.0, "nll": 0.5})
    final, record = tuned(config(tmp_path), run)
    (configs,) = run.calls  # random search hands all out at once
    assert len(configs) == 8
    for one in configs:
        assert one.data == DataOptions(data="digits", train_size=100, validation=0.1)
        assert (one.seed, one.robustness, one.resume) == (SEED, False, True)
        assert one.out.parent == tmp_path / "tune" / "runs"
    assert len({one.out for one in configs}) == 8
    # All are alike, so the first, as it was given, is taken.
    assert final.objectives == SPECS
    assert [len(each["trials"]) for each in record["objectives"]] == [0, 4, 4]
    assert record["objectives"][1]["trials"][0]["options"] == {"smoothing": 0.1}


def test_the_best_is_taken_and_the_seeds_see_all_training_images(tmp_path: Path) -> None:
    run = Runner(lambda spec: {"accuracy": 100 * smoothing(spec), "nll": 0.5})
    given = config(tmp_path, data=DataOptions(data="digits", validation=0.25), seeds=(SEED, 1))
    final, record = tuned(given, run)
    assert {one.data.validation for one in run.calls[0]} == {0.25}
    assert {one.seed for one in run.calls[0]} == {SEED + 1}
    assert final.data.validation == 0
    tried = [trial["objective"] for trial in record["objectives"][1]["trials"]]
    assert tried[0] == "label_smoothing"
    assert final.objectives == (SPECS[0], max(tried, key=smoothing), SPECS[2])
    assert record["objectives"][1]["chosen"] == final.objectives[1]
    assert dataclasses.replace(final, objectives=SPECS, data=given.data) == given


def test_equal_accuracies_are_decided_by_nll(tmp_path: Path) -> None:
    run = Runner(lambda spec: {"accuracy": 90.0, "nll": smoothing(spec)})
    final, record = tuned(config(tmp_path), run)
    tried = [trial["objective"] for trial in record["objectives"][1]["trials"]]
    assert final.objectives[1] == min(tried, key=smoothing)


def test_a_trial_that_diverged_is_the_worst(tmp_path: Path) -> None:
    low = {"accuracy": 0.0, "nll": 9.0}
    run = Runner(lambda spec: None if spec in SPECS else low)
    final, record = tuned(config(tmp_path), run)
    assert final.objectives[1] not in SPECS
    first = record["objectives"][1]["trials"][0]
    assert (first["diverged"], first["accuracy"]) == (True, None)


def test_specs_that_are_tuned_to_the_same_are_one(tmp_path: Path) -> None:
    """Each trial has its own draw, but a spec that fixes what the other found has the same name."""
    _, record = tuned(config(tmp_path), Runner(lambda s: {"accuracy": smoothing(s), "nll": 0.0}))
    fixed = record["objectives"][1]["chosen"]
    given = config(tmp_path, objectives=("label_smoothing", fixed))
    final, record = tuned(given, Runner(lambda s: {"accuracy": smoothing(s), "nll": 0.0}))
    assert final.objectives == (fixed,)
    assert [each["chosen"] for each in record["objectives"]] == [fixed, fixed]


@pytest.mark.parametrize("tuner", ["random", "optuna"])
def test_mixers_are_tuned_in_the_same_trials(tuner: str, tmp_path: Path) -> None:
    specs = ("mixup+standard", "mixup+label_smoothing", "cutmix:alpha=1,probability=1+standard")
    run = Runner(lambda spec: {"accuracy": 90.0 + ("alpha" in spec), "nll": 0.5})
    final, record = tuned(config(tmp_path, objectives=specs, tuner=tuner), run)
    mixup, both, nothing = record["objectives"]
    assert [len(each["trials"]) for each in (mixup, both, nothing)] == [4, 4, 0]
    assert mixup["trials"][0]["options"] == {"mixup.alpha": 1.0}
    assert both["trials"][0]["options"] == {"mixup.alpha": 1.0, "smoothing": 0.1}
    for name in ("mixup.alpha", "smoothing"):
        assert len({trial["options"][name] for trial in both["trials"]}) == 4
    assert final.objectives[0].startswith("mixup:alpha=")
    assert final.objectives[2] == specs[2]


def test_optuna_is_told_before_it_is_asked_again(tmp_path: Path) -> None:
    run = Runner(lambda spec: {"accuracy": 90.0, "nll": 0.5})
    _, record = tuned(config(tmp_path, tuner="optuna"), run)
    assert [len(configs) for configs in run.calls] == [2, 2, 2, 2]
    assert [len(each["trials"]) for each in record["objectives"]] == [0, 4, 4]


def test_compare_tunes_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c"
    words = ["compare", "--data", "digits", "--batch-size", "50", "--train-size", "100"]
    words += ["--epochs", "1", "--objectives", "standard", "label_smoothing", "--out", str(out)]
    main([*words, "--tune", "3", "--seeds", "0"])
    results = json.loads((out / "results.json").read_text())
    tuning = results["config"]["tuning"]
    assert (tuning["trials"], tuning["validation"]) == (3, 0.1)
    chosen = tuning["objectives"][1]["chosen"]
    assert [row["objective"] for row in results["rows"]] == ["standard", chosen]
    trials = tuning["objectives"][1]["trials"]
    best = max(trials, key=lambda trial: (trial["accuracy"], -trial["nll"]))
    assert best["objective"] == chosen
    said = (out / "table.md").read_text()
    assert "the best of 3 trials each (random search)" in said
    assert "nothing to tune: standard" in said
    assert "3 trials" in " ".join(capsys.readouterr().out.split())
    (run,) = (out / "runs").glob("standard*/run.json")
    assert json.loads(run.read_text())["images"]["scored"] == 359  # the test images
    for run in (out / "tune" / "runs").glob("*/run.json"):
        held_out = json.loads(run.read_text())["images"]
        assert held_out["scored"] == 144  # a tenth of the training images

    stamps = {p: p.stat().st_mtime_ns for p in (out / "tune").rglob("*") if p.is_file()}
    assert sum(p.name == "result.json" for p in stamps) == 3
    main([*words, "--tune", "3", "--seeds", "0", "1"])  # more seeds, the same tuning
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    assert len(json.loads((out / "results.json").read_text())["rows"]) == 4


def test_a_diverged_trial_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = TrainConfig(
        data=DataOptions(data="digits", train_size=100),
        objective="standard",
        training=TrainingOptions(epochs=1, batch_size=50, lr=1e30),
        out=tmp_path / "trial:weight=0.1",
        resume=True,
    )
    assert run_trial(one) is None

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the trial was run again")

    monkeypatch.setattr(trials, "run_training", fail)
    assert run_trial(one) is None


def test_a_comparison_goes_on_after_a_diverged_trial(tmp_path: Path) -> None:
    given = config(tmp_path, objectives=("label_smoothing",), tune=2, robustness=False)

    def run(configs: Sequence[TrainConfig]) -> list[TrialResult]:
        hot = dataclasses.replace(configs[0].training, lr=1e30)
        return [run_trial(dataclasses.replace(configs[0], training=hot)), run_trial(configs[1])]

    results = run_comparison(given, run_trials=run)
    first, second = results["config"]["tuning"]["objectives"][0]["trials"]
    assert (first["diverged"], second["diverged"]) == (True, False)
    assert results["rows"][0]["objective"] == second["objective"]


def test_a_trial_that_diverges_does_not_end_the_comparison_that_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the comparison's scheduler: the drawn trial diverges, the published one counts."""
    train = trials.run_training

    def diverging(one: TrainConfig, **context: Any) -> dict[str, Any]:
        if "=" in one.objective:
            raise DivergedError("the loss became nan")
        return train(one, **context)

    monkeypatch.setattr(trials, "run_training", diverging)
    given = config(tmp_path, objectives=("label_smoothing",), tune=2, robustness=False)
    results = run_comparison(given)
    first, second = results["config"]["tuning"]["objectives"][0]["trials"]
    assert (first["diverged"], second["diverged"]) == (False, True)
    assert results["rows"][0]["objective"] == "label_smoothing"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tune", "0"), "tune is 0; pass a whole number of at least 1"),
        (("--tune", "-3"), "tune is -3"),
        (("--tune", "2", "--objectives", "standard"), "there is nothing to tune in standard"),
        (
            ("--tune", "2", "--objectives", "label_smoothing:smoothing=0.1"),
            "pass an objective whose options are free",
        ),
        (("--tuner", "optuna"), "nothing is tuned; pass --tune too"),
        (("--tune", "2", "--objectives", "label_smoothin"), "pass label_smoothing"),
    ],
)
def test_bad_input(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--data", "digits", "--out", str(out), *words])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()
