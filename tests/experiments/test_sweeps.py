"""Comparisons with several workers: the same results as with one, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments.compare.compare import run_comparison
from selfexplain.experiments.compare.grid import run_all, run_names
from selfexplain.experiments.options import (
    CompareConfig,
    DataOptions,
    DeviceOptions,
    SweepOptions,
    TrainConfig,
    scheduler_of,
)
from selfexplain.experiments.run_dir import locked
from selfexplain.launchers import Done, Failed, LocalWorkers, Serial, Started, StepsDone
from selfexplain.training import TrainingOptions

pytestmark = pytest.mark.slow

EPOCHS = 10  # so many that a run does not end before it is killed
NAMES = ["standard-seed0", "introspective-seed0", "standard-seed1", "introspective-seed1"]


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in this process (conftest.py), so that results are the same bit for bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def comparison(out: Path, **options: Any) -> CompareConfig:
    return CompareConfig(
        **{
            "data": DataOptions(data="digits", train_size=200),
            "objectives": ("standard", "introspective"),
            "seeds": (0, 1),
            "training": TrainingOptions(epochs=EPOCHS, batch_size=50),
            "out": out,
        }
        | options
    )


def rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    timing = {"step_seconds", "cost", "cost_ci95"}
    return [{k: v for k, v in row.items() if k not in timing} for row in results["rows"]]


def epochs_in(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("alone") / "c"
    return out, run_comparison(comparison(out))


def assert_same(out: Path, results: dict[str, Any], alone: tuple[Path, dict[str, Any]]) -> None:
    expected_out, expected = alone
    assert rows(results) == rows(expected)
    for name in NAMES:
        a, b = (load_file(o / "runs" / name / "model.safetensors") for o in (expected_out, out))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_workers_change_nothing_and_a_killed_one_loses_nothing(
    alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """One worker is killed after its first epoch; its run goes on from the last checkpoint."""
    news: list[tuple[str, object]] = []
    victim, steps_of_an_epoch = "introspective-seed0", 4
    pids: dict[str, int | None] = {}

    def watch(name: str, message: object) -> None:
        news.append((name, message))
        if isinstance(message, Started):
            pids[name] = message.pid
        checkpoint = tmp_path / "runs" / victim / "checkpoint.pt"
        if name == victim and isinstance(message, StepsDone) and not killed():
            while not checkpoint.exists():
                time.sleep(0.001)
            os.kill(pids[victim], signal.SIGKILL)  # type: ignore[arg-type]

    def killed() -> bool:
        return any(isinstance(message, Failed) for _, message in news)

    results = run_comparison(comparison(tmp_path, sweep=SweepOptions(workers=2)), watch)
    assert_same(tmp_path, results, alone)
    (failed,) = [(n, m) for n, m in news if isinstance(m, Failed)]
    assert failed[0] == victim
    assert failed[1].retry
    after = news[news.index(failed) :]
    again = [m.done for n, m in after if n == victim and isinstance(m, StepsDone)]
    assert again[0] > steps_of_an_epoch  # it was not begun anew
    for name in NAMES:
        begun = [m for n, m in news if n == name and isinstance(m, Started)]
        assert len(begun) == (2 if name == victim else 1)
        assert epochs_in(tmp_path / "runs" / name) == list(range(1, EPOCHS + 1))


def test_finished_runs_start_no_worker(
    alone: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, expected = alone
    monkeypatch.setattr("selfexplain.launchers.local.WorkerProcess", None)
    news: list[tuple[str, object]] = []
    again = run_comparison(
        comparison(out, sweep=SweepOptions(workers=2)), lambda *told: news.append(told)
    )
    for results in (again, expected):
        results["config"]["environment"].pop("date", None)
    assert again == expected
    assert [name for name, _ in news] == NAMES
    assert all(isinstance(message, Done) for _, message in news)


def test_run_that_diverges_ends_the_sweep_after_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--data", "digits", "--train-size", "100", "--batch-size", "50"]
    words += ["--epochs", "1", "--seeds", "0", "--out", str(tmp_path / "c"), "--workers", "2"]
    bad = "introspective:weight=1e30,warmup_steps=0"
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--objectives", bad, "standard"])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("selfexplain: 1 of 2 runs failed")
    assert "pass a smaller --lr" in said.err
    assert said.err.count("\n") == 1
    assert "standard-seed0: done" in said.out
    assert (tmp_path / "c" / "runs" / "standard-seed0" / "result.json").exists()


def test_interrupt_keeps_finished_epochs(tmp_path: Path) -> None:
    """Ctrl-C: exit code 130, no worker left, checkpoints whole."""
    words = ["compare", "--data", "digits", "--train-size", "100", "--batch-size", "50"]
    words += ["--epochs", "5000", "--seeds", "0", "1"]
    words += ["--objectives", "standard", "--out", str(tmp_path), "--workers", "2"]
    # A shell starts what it puts into the background, these tests perhaps, deaf to interrupts.
    hearing = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{hearing}from selfexplain.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folders = [tmp_path / "runs" / f"standard-seed{seed}" for seed in (0, 1)]
    while not all((folder / "checkpoint.pt").exists() for folder in folders):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 130
    assert err == "selfexplain: stopped; finished epochs are kept\n"
    for folder in folders:
        with locked(folder):  # nobody holds it any more
            saved = torch.load(folder / "checkpoint.pt", weights_only=True)
            assert saved["epochs_done"] in (len(epochs_in(folder)), len(epochs_in(folder)) - 1)


def test_one_command_at_a_time_on_a_comparison(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another process is writing"):
        run_comparison(comparison(tmp_path))


def test_several_devices_and_workers_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does
    with pytest.raises(InputError, match="leave out --workers"):
        scheduler_of(SweepOptions(workers=2))
    assert not scheduler_of(SweepOptions()).isolated
    with pytest.raises(InputError, match="--workers 1, or --devices 1"):
        comparison(tmp_path, device=DeviceOptions(devices=2), sweep=SweepOptions(workers=2))


def test_workers_are_no_part_of_what_is_compared(tmp_path: Path) -> None:
    one, two = (comparison(Path("runs/NAME"), sweep=SweepOptions(workers=n)) for n in (1, 2))
    assert one.out == two.out


def test_run_all_refuses_two_runs_in_one_folder(tmp_path: Path) -> None:
    config = TrainConfig(data=DataOptions(data="digits"), out=tmp_path / "run")
    with pytest.raises(InputError, match="a folder of its own"):
        run_all([config, config], Serial())
    assert run_all([], LocalWorkers(2)) == []
    assert run_names([Path("a/b/c"), Path("a/d").absolute()]) == ["b/c", "d"]
