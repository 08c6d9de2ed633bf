"""TensorBoard, Weights & Biases and MLflow, the real ones, offline."""

import doctest
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import wandb_reader
from tests.helpers.later import Later

from selfexplain.errors import InputError
from selfexplain.training.log import EpochLog
from selfexplain.training.loggers import check_installed, numbers, opened

mlflow, sqlalchemy, wandb = map(Later, ("mlflow", "sqlalchemy", "wandb"))
tensorboard = Later("tensorboard.backend.event_processing.event_accumulator")

CONFIG = {"data": {"data": "digits"}, "seed": 0, "objectives": ["standard"]}
FLAT = {"data.data": "digits", "seed": "0", "objectives": '["standard"]'}


def log(
    name: Any,
    folder: Path,
    epochs: tuple[int, ...],
    scores: dict[str, float] | None,
    config: dict[str, Any] = CONFIG,
) -> None:
    """A run as the recipes log it; stopped if it has no scores."""
    with opened([name], folder, config) as loggers:
        written = EpochLog(folder, loggers)
        for epoch in epochs:
            written.write({"epoch": epoch, "loss": 1 / epoch, "cell": "|none~0|"})
        if scores is None:
            raise KeyboardInterrupt
        for logger in loggers:
            logger.finish(scores)


def log_in_two_goes(name: Any, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        log(name, folder, (1, 2), None)
    log(name, folder, (2, 3), {"accuracy": 90.0})  # the second epoch had no checkpoint yet


def test_tensorboard_gets_the_scalars_and_the_configuration(tmp_path: Path) -> None:
    log_in_two_goes("tensorboard", tmp_path)
    events = tensorboard.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3]
    assert [event.value for event in losses] == pytest.approx([1.0, 0.5, 1 / 3])
    assert [event.value for event in events.Scalars("final/accuracy")] == [90.0]
    plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data
    assert b"data.data" in plugin.content
    assert b"digits" in plugin.content


def test_wandb_continues_its_run_and_stays_offline(tmp_path: Path) -> None:
    log_in_two_goes("wandb", tmp_path)
    wandb.teardown()  # its own process has then written everything
    first, second = sorted(
        (tmp_path / "wandb").glob("offline-run-*"), key=lambda run: run.stat().st_mtime_ns
    )
    assert [(h["_step"], h["loss"]) for h in wandb_reader.history(first)] == [(1, 1.0), (2, 0.5)]
    assert [h["_step"] for h in wandb_reader.history(second)] == [2, 3]
    assert wandb_reader.summary(second)["final/accuracy"] == 90.0
    configs = [wandb_reader.config(run) for run in (first, second)]
    kept = (tmp_path / "wandb" / "run-id").read_text().split()[0]
    assert [c["run_id"] for c in configs] == [kept, kept]
    assert configs[0]["data"] == {"data": "digits"}
    assert [wandb_reader.exit_code(run) for run in (first, second)] == [1, 0]


def test_wandb_leaves_a_run_of_the_user_open(tmp_path: Path) -> None:
    with wandb.init(mode="offline", dir=tmp_path, settings={"silent": True}) as mine:
        log("wandb", tmp_path / "run", (1,), {})
        assert wandb.run is mine
        mine.log({"still": 1})


def test_wandb_that_is_not_logged_in_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(InputError, match="wandb login"):
        log("wandb", tmp_path, (1,), {})


def test_mlflow_continues_its_run(tmp_path: Path) -> None:
    before = mlflow.get_tracking_uri()
    log_in_two_goes("mlflow", tmp_path)
    assert mlflow.get_tracking_uri() == before
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    [run] = client.search_runs([client.get_experiment_by_name("selfexplain").experiment_id])
    assert run.info.run_name == tmp_path.name
    assert run.info.status == "FINISHED"
    assert run.data.params == FLAT
    assert run.data.metrics == {"epoch": 3, "loss": pytest.approx(1 / 3), "final/accuracy": 90.0}
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in losses] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_mlflow_runs_share_a_store_that_the_user_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path}/all.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    log("mlflow", tmp_path / "one", (1,), {})
    with pytest.raises(ZeroDivisionError), opened(["mlflow"], tmp_path / "two", CONFIG):
        _ = 1 / 0
    client = mlflow.MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("selfexplain").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {
        "one": "FINISHED",
        "two": "FAILED",
    }
    assert not (tmp_path / "one" / "mlflow" / "mlflow.db").exists()
    kept = tmp_path / "one" / "mlflow" / "run-id"
    kept.write_text("0" * 32 + kept.read_text()[32:])
    with pytest.raises(InputError, match="the one that it began with") as told:
        log("mlflow", tmp_path / "one", (2,), {})
    assert isinstance(told.value.__cause__, mlflow.exceptions.MlflowException)


def fail_then_run_another(name: Any, folder: Path) -> None:
    """A start that left no checkpoint, then another configuration in its folder."""
    with pytest.raises(KeyboardInterrupt):
        log(name, folder, (1, 2), None, {"lr": 0.1})
    log(name, folder, (1,), {}, {"lr": 0.2})


def test_tensorboard_forgets_a_start_that_failed(tmp_path: Path) -> None:
    fail_then_run_another("tensorboard", tmp_path)
    events = tensorboard.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1]


def test_wandb_gives_another_configuration_another_run(tmp_path: Path) -> None:
    fail_then_run_another("wandb", tmp_path)
    wandb.teardown()
    configs = [wandb_reader.config(run) for run in (tmp_path / "wandb").glob("offline-run-*")]
    assert {config["lr"] for config in configs} == {0.1, 0.2}
    assert len({config["run_id"] for config in configs}) == 2


def test_mlflow_gives_another_configuration_another_run(tmp_path: Path) -> None:
    folder = tmp_path / "a?b#c %41"
    fail_then_run_another("mlflow", folder)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    store = sqlalchemy.URL.create("sqlite+pysqlite", database=str(folder / "mlflow" / "mlflow.db"))
    client = mlflow.MlflowClient(store.render_as_string())
    runs = client.search_runs([client.get_experiment_by_name("selfexplain").experiment_id])
    assert {run.data.params["lr"]: run.info.status for run in runs} == {
        "0.1": "FAILED",
        "0.2": "FINISHED",
    }


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_names_its_extra(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed([name])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"selfexplain\[{name}\]"):
        check_installed([name])


def test_what_is_no_number_is_left_out() -> None:
    metrics = {"epoch": 1, "loss": float("nan"), "a": {"b": 2, "c": None}, "w": [1.0], "s": "1"}
    assert numbers(metrics) == {"epoch": 1.0, "a/b": 2.0}


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_examples(name: str) -> None:
    """Here, as doctest's own collection would import the library in every worker (conftest.py)."""
    module = importlib.import_module(f"selfexplain.training.loggers.{name}")
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0
