"""Runs that a real torchrun starts in two processes, and the same in one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.torchrun_script import OBJECTIVES, TRAIN, train_all

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments.options import DeviceOptions, devices_and_machines, first_process

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def said_by(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return out


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that two processes wrote, and what they said."""
    folder = tmp_path_factory.mktemp("together")
    script = str(ROOT / "tests" / "helpers" / "torchrun_script.py")
    return folder, said_by(torchrun("--standalone", "--nproc-per-node=2", script, str(folder)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train_all(folder)
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scores(folder: Path) -> dict[str, float]:
    result = json.loads((folder / "result.json").read_text())
    return {name: result[name] for name in ("accuracy", "nll", "brier", "ece")}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_is_that_of_one_process(
    objective: str, together: tuple[Path, str], alone: Path
) -> None:
    two, one = together[0] / objective[:8], alone / objective[:8]
    weights = [load_file(folder / "model.safetensors") for folder in (two, one)]
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
    objectives = [
        torch.load(folder / "checkpoint.pt", weights_only=True)["objective"]
        for folder in (two, one)
    ]
    torch.testing.assert_close(*objectives, rtol=1e-5, atol=1e-6)  # with the means of classes
    for here, there in zip(lines(two), lines(one), strict=True):
        for name in set(there) - {"step_seconds", "sha256"}:  # which is of all in the line
            assert here[name] == pytest.approx(there[name], rel=1e-5), name
    assert scores(two) == pytest.approx(scores(one), rel=1e-4)
    records = [json.loads((folder / "run.json").read_text()) for folder in (two, one)]
    assert [record["environment"]["processes"] for record in records] == [2, 1]


def test_the_first_process_alone_speaks(together: tuple[Path, str]) -> None:
    assert together[1].count("Run: ") == len(OBJECTIVES)


def test_the_class_means_were_in_use(together: tuple[Path, str]) -> None:
    """Or the comparison above would say nothing of them."""
    last = lines(together[0] / "introspe")[-1]
    assert last["introspection"] > 0
    state = torch.load(together[0] / "introspe" / "checkpoint.pt", weights_only=True)["objective"]
    assert state["class_mean.seen_K"].all()


def test_a_run_of_two_processes_is_taken_up_by_one(together: tuple[Path, str]) -> None:
    folder = together[0] / "standard"
    before = scores(folder)
    (folder / "result.json").unlink()
    main([*TRAIN, "--objective", "standard", "--out", str(folder), "--resume"])
    assert scores(folder) == pytest.approx(before, rel=1e-6)


def test_a_broken_search_of_two_processes_is_resumed_and_both_hold_the_same(
    together: tuple[Path, str],
) -> None:
    folder = together[0]
    first, second = (torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2))
    for mine, other in zip(first, second, strict=True):  # whole, broken and resumed
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    whole, _, resumed = first
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    written = torch.load(folder / "broken" / "checkpoint.pt", weights_only=True)
    torch.testing.assert_close(written["search"], whole, rtol=0, atol=0)
    log = (folder / "broken" / "search.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log] == [1, 2]
    assert not list(folder.rglob("*.partial"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_two_machines_that_meet_train_as_one_with_two_processes(
    together: tuple[Path, str], tmp_path: Path
) -> None:
    """Bit for bit; the machines number themselves when they meet."""
    out, meeting = tmp_path / "standard", f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    machines = [
        torchrun(
            *("--nnodes=2", "--nproc-per-node=1"),
            *("--rdzv-backend=c10d", meeting, "--rdzv-id=one", "--local-addr=127.0.0.1"),
            *("-m", "selfexplain", *TRAIN, "--objective", OBJECTIVES[0], "--out", str(out)),
        )
        for _ in range(2)
    ]
    said = "".join(said_by(machine) for machine in machines)
    assert said.count("Run: ") == 1
    here, there = (load_file(f / "model.safetensors") for f in (out, together[0] / "standard"))
    torch.testing.assert_close(here, there, rtol=0, atol=0)
    record = json.loads((out / "run.json").read_text())
    assert record["environment"]["processes"] == 2


def test_one_search_over_two_machines_writes_and_speaks_once(tmp_path: Path) -> None:
    """Each machine has a process with LOCAL_RANK 0; one of them is the first."""
    port = free_port()
    options = ["--data", "digits", "--train-size", "20", "--validation", "0.03", "--epochs", "1"]
    options += ["--batch-size", "20", "--init-channels", "4", "--cells", "1", "--method", "darts1"]
    machines = [
        torchrun(
            *("--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}"),
            *("--master-addr=127.0.0.1", f"--master-port={port}"),
            *("-m", "selfexplain", "search", *options, "--out", str(tmp_path / "s")),
        )
        for rank in range(2)
    ]
    said = "".join(said_by(machine) for machine in machines)
    assert said.count("Search: ") == 1
    record = json.loads((tmp_path / "s" / "run.json").read_text())
    assert record["environment"]["processes"] == 2
    assert (tmp_path / "s" / "genotype.json").exists()


def test_devices_come_from_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    for name, value in {"LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 6, "RANK": 2, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    assert devices_and_machines(DeviceOptions()) == (2, 3)
    assert devices_and_machines(DeviceOptions(devices=2)) == (2, 3)
    assert not first_process()
    with pytest.raises(InputError, match="devices is 3; leave out --devices"):
        devices_and_machines(DeviceOptions(devices=3))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="as many on each machine"):
        devices_and_machines(DeviceOptions())
