"""`--loggers` as a user meets it, with the real libraries, offline."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.later import Later

from selfexplain.cli import main
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import CompareConfig, DataOptions, TrainConfig, to_dict
from selfexplain.experiments.search.run import run_search
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.training import TrainingOptions

pytestmark = pytest.mark.slow

mlflow, wandb = Later("mlflow"), Later("wandb")
tensorboard = Later("tensorboard.backend.event_processing.event_accumulator")

DIGITS = DataOptions(data="digits", train_size=100, validation=0.05)


def only_run(store: Path) -> tuple[Any, Any]:
    client = mlflow.MlflowClient(f"sqlite:///{store}")
    [run] = client.search_runs([client.get_experiment_by_name("selfexplain").experiment_id])
    return client, run


def stop_in_second_epoch(done: int, total: int) -> None:
    if done > total // 2:
        raise KeyboardInterrupt


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_training_is_logged_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "one"
    training = TrainingOptions(epochs=2, batch_size=50)
    shared: dict[str, Any] = {"data": DIGITS, "training": training, "out": out}
    config = TrainConfig(**shared, loggers=("tensorboard", "wandb", "mlflow"), resume=True)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, on_step=stop_in_second_epoch)
    assert only_run(out / "mlflow" / "mlflow.db")[1].info.status == "FAILED"
    result = run_training(config)

    client, run = only_run(out / "mlflow" / "mlflow.db")
    assert run.info.status == "FINISHED"
    assert run.data.params["training.epochs"] == "2"
    assert run.data.params["objective"] == "introspective"
    assert run.data.metrics["final/accuracy"] == result["accuracy"]
    written = [(line["epoch"], line["loss"]) for line in lines(out / "metrics.jsonl")]
    logged = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in logged] == written
    wandb.teardown()
    assert len(list(out.glob("wandb/offline-run-*/*.wandb"))) == 2
    events = tensorboard.EventAccumulator(str(out / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2]


@pytest.mark.parametrize("method", ["darts1", "random"])
def test_a_search_is_logged(method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/all.db")
    out = tmp_path / "search"
    small: dict[str, Any] = {"batch_size": 20, "init_channels": 4, "cells": 1, "epochs": 1}
    config = SearchConfig(data=DIGITS, method=method, out=out, loggers=("mlflow",), **small)
    result = run_search(config)
    metrics = only_run(tmp_path / "all.db")[1].data.metrics
    assert metrics["final/skips"] == result["skips"]
    if method != "random":
        [line] = lines(out / "search.jsonl")
        assert metrics["losses/explainer"] == line["losses"]["explainer"]
        assert metrics["validation_accuracy"] == line["validation_accuracy"]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that two processes train in, with a teacher and with loggers; what they said."""
    out = tmp_path_factory.mktemp("by_two")
    words = ["train", "--data", "digits", "--train-size", "100", "--batch-size", "50"]
    words += ["--validation", "0.05", "--epochs", "2", "--accelerator", "cpu", "--devices", "2"]
    words += ["--objective", "kd", "--out", str(out), "--loggers", "wandb", "mlflow"]
    line = [sys.executable, "-m", "selfexplain", *words]
    done = subprocess.run(line, check=True, capture_output=True, text=True, timeout=200)
    return out, done.stdout


def test_the_first_of_two_processes_alone_logs(by_two: tuple[Path, str]) -> None:
    folder, _ = by_two
    client, run = only_run(folder / "mlflow" / "mlflow.db")
    logged = client.get_metric_history(run.info.run_id, "loss")
    written = [(line["epoch"], line["loss"]) for line in lines(folder / "metrics.jsonl")]
    assert [(m.step, m.value) for m in logged] == written
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1


def test_two_processes_share_a_teacher(by_two: tuple[Path, str]) -> None:
    folder, said = by_two
    assert said.count("Run: ") == 1
    assert (folder / "teachers" / "standard-seed0" / "result.json").exists()
    assert (folder / "result.json").exists()


def test_loggers_do_not_change_whose_folder_it_is() -> None:
    """With them, or as configurations were written before, a run is the same one."""
    for kind in (TrainConfig, CompareConfig, SearchConfig):
        without, with_all = kind(data=DIGITS), kind(data=DIGITS, loggers=("mlflow", "wandb"))
        assert without.out == with_all.out
        assert to_dict(without) == to_dict(with_all)
    assert to_dict(TrainConfig(data=DIGITS))["tensorboard"] is False


@pytest.mark.parametrize("command", ["train", "compare", "search"])
def test_a_missing_logger_is_one_sentence_before_anything_is_trained(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main([command, "--data", "digits", "--out", str(out), "--loggers", "tensorboard", "wandb"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "selfexplain[tensorboard]" in said
    assert said.count("\n") == 1
    assert not (out / "checkpoint.pt").exists()
