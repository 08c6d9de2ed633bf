"""A real Ray cluster on this machine, started once for all that is asked of it."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.helpers import sweep_trials
from tests.helpers.later import Later
from tests.helpers.sweep_trials import (
    STEPS,
    RunOfTwoFiles,
    count_up,
    diary,
    leave_a_run,
    on_a_share,
)

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.launchers import (
    Done,
    Failed,
    Message,
    RayCluster,
    Started,
    StepsDone,
    Store,
    Stored,
    Trial,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="the ray extra is not installed"
    ),
]
ray = Later("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """It claims to have a GPU (Ray counts, CUDA is idle), and cores for more than may share it."""
    ray.init(
        address="local",
        num_cpus=3,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


def test_cluster_runs_every_trial_to_its_end(cluster: None, tmp_path: Path) -> None:
    """One trial's worker is killed, one raises once, one has bad input."""
    news: list[tuple[str, Message]] = []

    def watch(name: str, message: Message) -> None:
        first_step = name == "killed" and isinstance(message, StepsDone) and name not in failed()
        news.append((name, message))
        if first_step:
            started = [m for n, m in news if n == name and isinstance(m, Started)]
            os.kill(started[-1].pid, signal.SIGKILL)  # type: ignore[arg-type]

    def failed() -> dict[str, Failed]:
        return {n: m for n, m in news if isinstance(m, Failed)}

    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "slow").write_text("")
    trials = [
        Trial("killed", count_up, tmp_path / "killed"),
        Trial("refused", sweep_trials.refused, tmp_path / "refused"),
        Trial("raising_once", sweep_trials.raising_once, tmp_path / "raising_once"),
    ]
    outcome = RayCluster(gpus_per_run=0).run(trials, watch)
    assert outcome.results == {"killed": STEPS, "raising_once": STEPS}
    assert list(outcome.failures) == ["refused"]
    assert {n: m.retry for n, m in failed().items()} == {
        "killed": True,
        "refused": False,
        "raising_once": True,
    }
    steps, by = zip(*(line.split(" by ") for line in diary(tmp_path, "killed")), strict=True)
    assert steps == ("1", "2", "3", "4")  # from its checkpoint, not from the start
    assert len(set(by)) == 2
    assert len(diary(tmp_path, "raising_once")) == STEPS
    begun = [n for n, m in news if isinstance(m, Started)]
    assert sorted(begun) == ["killed", "killed", "raising_once", "raising_once", "refused"]


def test_run_that_the_cluster_has_no_room_for(cluster: None, tmp_path: Path) -> None:
    trial = Trial("a", count_up, tmp_path)
    with pytest.raises(
        InputError, match="4 CPUs, but no machine of the cluster has more than 3; pass a"
    ):
        RayCluster(cpus_per_run=4).run([trial])
    with pytest.raises(InputError, match="pass a smaller --gpus-per-run"):
        RayCluster(gpus_per_run=64).run([trial])
    assert ray.is_initialized()  # who started the cluster ends it


MARK = "SELFEXPLAIN_TEST_MACHINE"


def processes_of(machine: Path) -> list[int]:
    """The processes of a machine that this one only pretends to have."""
    mark, found = f"{MARK}={machine}\0".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def switch_off(machine: Path) -> None:
    """Kill all that runs on a machine, and lose its disk."""
    for pid in processes_of(machine):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(machine, ignore_errors=True)


@pytest.fixture
def machines(cluster: None, tmp_path: Path) -> Iterator[list[Path]]:
    """Two more machines with 4 cores each, named by their disks; the cluster's own has 3."""
    disks, started = [tmp_path / "one", tmp_path / "two"], []
    address = ray.get_runtime_context().gcs_address
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    start += ["--disable-usage-stats", "--address", address, "--num-cpus", "4", "--num-gpus", "0"]
    try:
        for count, disk in enumerate(disks, start=2):
            disk.mkdir()
            started.append(
                subprocess.Popen(
                    [*start, "--object-store-memory", str(100 * 2**20)],
                    env={**os.environ, "TMPDIR": str(disk), MARK: str(disk)},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            patience = time.monotonic() + 120  # one after the other: they choose names of sockets
            while sum(node["Alive"] for node in ray.nodes()) < count:
                assert time.monotonic() < patience, "a machine does not start"
                time.sleep(0.2)
        yield disks
    finally:
        for disk in disks:
            switch_off(disk)
        for process in started:
            process.wait()


def test_machine_that_dies_in_mid_sweep(machines: list[Path], tmp_path: Path) -> None:
    """What it had finished is in the storage, what it was at is begun again on what is left."""
    store = Store(f"file://{tmp_path}/storage")
    store.begin()
    held = tmp_path / "held"
    trials = [
        Trial(name, leave_a_run, RunOfTwoFiles(store.folder / name, held=of))
        for name, of in {"a": None, "b": None, "last": held, "c": None, "d": None}.items()
    ]
    news: list[tuple[str, Message]] = []
    lost: list[Path] = []

    def watch(name: str, message: Message) -> None:
        news.append((name, message))
        done = {n for n, m in news if isinstance(m, Done)}
        at = [m.pid for n, m in news if n == "last" and isinstance(m, Started)]
        if not lost and at and {"a", "b"} <= done and held.exists():
            lost.extend(disk for disk in machines if at[-1] in processes_of(disk))
            switch_off(*lost)

    scheduler = RayCluster(gpus_per_run=0, cpus_per_run=4, workers=2, shared_folder=False)
    outcome = Stored(store, scheduler).run(trials, watch)
    assert len(lost) == 1
    assert outcome.failures == {}
    assert outcome.results == {"a": 1000, "b": 1000, "last": 4000, "c": 1000, "d": 1000}
    assert [n for n, m in news if isinstance(m, Failed) and m.retry] == ["last"]
    begun = [n for n, m in news if isinstance(m, Started)]
    assert sorted(begun) == ["a", "b", "c", "d", "last", "last"]  # finished ones once
    for trial in trials:
        assert (tmp_path / "storage" / trial.name / "result.json").read_text() == trial.name
        assert (store.folder / trial.name / "result.json").exists()  # and here
        by = (store.folder / trial.name / "run.json").read_text()
        assert any(f"in {disk}" in by for disk in machines)  # each on the disk of its machine


def share(names: str, folder: Path, gpus: float | None, together: int) -> list[dict[str, object]]:
    """Trials, the first of which wait until so many have come."""
    trials = [Trial(name, on_a_share, (folder, together)) for name in names]
    outcome = RayCluster(gpus_per_run=gpus, retries=0).run(trials)
    assert outcome.failures == {}
    return list(outcome.results.values())


def test_two_halves_share_a_gpu(cluster: None, tmp_path: Path) -> None:
    """Two run side by side on GPU 0, the third waits for its turn."""
    found = share("abc", tmp_path, 0.5, together=2)
    assert [trial["visible"] for trial in found] == ["0", "0", "0"]
    assert max(trial["most"] for trial in found) == 2


def test_without_a_share_each_has_the_gpu_alone(cluster: None, tmp_path: Path) -> None:
    found = share("ab", tmp_path, None, together=1)
    assert found == [{"most": 1, "visible": "0"}] * 2


def test_a_run_that_asks_for_none_sees_none(cluster: None, tmp_path: Path) -> None:
    """Otherwise every run would take the first GPU of its machine."""
    found = share("ab", tmp_path, 0, together=2)
    assert found == [{"most": 2, "visible": ""}] * 2


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_cluster_that_is_not_there(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(
        InputError, match=f"no Ray cluster can be used at {address} .*--cluster-address"
    ):
        RayCluster(address).run([Trial("a", count_up, Path("unused"))])


def test_cluster_flags_are_for_clusters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["compare", "--data", "digits", "--out", str(tmp_path), "--gpus-per-run", "0.5"]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "pass --cluster ray" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install 'selfexplain\[ray\]'"):
        RayCluster()
