"""A real Ray cluster on this machine, started once for all that is asked of it."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import sweep_trials
from tests.helpers.sweep_trials import STEPS, count_up, diary

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments.compare.grid import run_all
from selfexplain.experiments.options import DataOptions, TrainConfig
from selfexplain.launchers import Failed, Message, RayCluster, Serial, Started, Step, Trial
from selfexplain.training import TrainingOptions

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason="the ray extra is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


def training(out: Path) -> TrainConfig:
    return TrainConfig(
        data=DataOptions(data="digits", train_size=100),
        training=TrainingOptions(epochs=1, batch_size=50),
        objective="standard",
        out=out,
    )


def test_cluster_runs_every_trial_to_its_end(cluster: None, tmp_path: Path) -> None:
    """One trial's worker is killed, one raises once, one has bad input."""
    news: list[tuple[str, Message]] = []

    def watch(name: str, message: Message) -> None:
        first_step = name == "killed" and isinstance(message, Step) and name not in failed()
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
    outcome = RayCluster().run(trials, watch)
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


def test_run_is_the_same_on_a_cluster(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also: folders may be relative to the one that the command is started in."""
    monkeypatch.chdir(tmp_path)
    (there,) = run_all([training(Path("there"))], RayCluster())
    (here,) = run_all([training(Path("here"))], Serial())
    for result in (there, here):
        del result["step_seconds"]
    assert there == here
    a, b = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("there", "here"))
    assert a == b


def test_run_that_the_cluster_has_no_room_for(cluster: None, tmp_path: Path) -> None:
    trial = Trial("a", count_up, tmp_path)
    with pytest.raises(InputError, match="3 CPUs, and the cluster has 2; pass a smaller --cpus"):
        RayCluster(cpus_per_run=3).run([trial])
    with pytest.raises(InputError, match="pass a smaller --gpus-per-run"):
        RayCluster(gpus_per_run=64).run([trial])
    assert ray.is_initialized()  # who started the cluster ends it


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_cluster_that_is_not_there(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=f"no Ray cluster at {address} .*--cluster-address"):
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
