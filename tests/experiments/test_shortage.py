"""A GPU without memory: one sentence, wherever it happens, and nothing is lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from selfexplain.errors import LostProcessError, OutOfMemoryError
from selfexplain.experiments.compare.compare import run_comparison
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import CompareConfig, DataOptions, DeviceOptions, TrainConfig
from selfexplain.experiments.runtime import launch, reraise_oom
from selfexplain.experiments.search.run import run_search
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.training import TrainingOptions

DIGITS = DataOptions(data="digits", train_size=100)
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 16.00 MiB")


def full(*_: Any, **__: Any) -> None:
    raise FULL


def config(out: Path, **more: Any) -> TrainConfig:
    training = TrainingOptions(epochs=3, batch_size=50)
    return TrainConfig(data=DIGITS, training=training, out=out, **more)


@pytest.mark.parametrize(
    "place",
    [
        "selfexplain.objectives.shared.base.Objective.to",  # the weights go to the device
        "selfexplain.experiments.fit.snapshots.SnapshotWriter.add",
        "selfexplain.experiments.fit.train.predict_together",
    ],
)
def test_wherever_a_run_meets_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, full)
    with pytest.raises(OutOfMemoryError, match=r"pass a smaller --batch-size \(now 50\), or"):
        run_training(config(tmp_path / "run"))


def test_the_run_continues_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_step(done: int, total: int) -> None:
        if done == 5:
            raise FULL

    with pytest.raises(OutOfMemoryError):
        run_training(config(tmp_path / "run"), on_step=on_step)
    resumed = run_training(config(tmp_path / "run", resume=True))
    whole = run_training(config(tmp_path / "whole"))
    assert resumed["nll"] == whole["nll"]


def test_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(Fabric, "launch", no_room)
    with pytest.raises(OutOfMemoryError, match="out of memory; let fewer runs share it"):
        launch(DeviceOptions(accelerator="cpu"), TrainingOptions())


def test_while_costs_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfexplain.experiments.compare.compare.interleaved_cost", full)
    training = TrainingOptions(epochs=1, batch_size=50)
    with pytest.raises(OutOfMemoryError, match="fewer --objectives at a time"):
        run_comparison(CompareConfig(data=DIGITS, training=training, out=tmp_path / "run"))


def test_in_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfexplain.experiments.search.run.load", full)
    with pytest.raises(OutOfMemoryError, match="let fewer searches share the GPU"):
        run_search(SearchConfig(data=DIGITS, method="darts1", out=tmp_path / "search"))


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="sizes differ"), reraise_oom("do something else"):
        raise RuntimeError("sizes differ")


@pytest.mark.parametrize(
    "error",
    [
        dist.DistNetworkError("The client socket has timed out after 3000ms"),
        dist.DistStoreError("Timed out after 4 seconds waiting for clients. 1/2 clients joined."),
        RuntimeError(
            "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:29500"
        ),
    ],
)
def test_processes_that_never_meet(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the other process that has ended, and no matter of the accelerator."""

    def alone(*_: object) -> None:
        raise error

    monkeypatch.setattr(Fabric, "launch", alone)
    for name, value in (("TORCHELASTIC_RUN_ID", "a"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(LostProcessError, match="2 processes of this run could not be joined") as it:
        launch(DeviceOptions(accelerator="cpu"), TrainingOptions())
    assert str(error)[:30] in str(it.value)
    assert it.value.exit_code == 1
