"""Shares of a GPU on a real Ray cluster that only claims to have one: Ray counts, CUDA is idle."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.sweep_trials import on_a_share

from selfexplain.launchers import RayCluster, Trial

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason="the ray extra is not installed")


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    """One declared GPU, and cores for more trials than may share it."""
    ray.init(
        address="local",
        num_cpus=3,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()


def run(names: str, folder: Path, gpus: float | None, together: int) -> list[dict[str, object]]:
    """Trials, the first of which wait until so many have come."""
    trials = [Trial(name, on_a_share, (folder, together)) for name in names]
    outcome = RayCluster(gpus_per_run=gpus, retries=0).run(trials)
    assert outcome.failures == {}
    return list(outcome.results.values())


def test_two_halves_share_a_gpu(one_gpu: None, tmp_path: Path) -> None:
    """Two run side by side on GPU 0, the third waits for its turn."""
    found = run("abc", tmp_path, 0.5, together=2)
    assert [trial["visible"] for trial in found] == ["0", "0", "0"]
    assert max(trial["most"] for trial in found) == 2


def test_without_a_share_each_has_the_gpu_alone(one_gpu: None, tmp_path: Path) -> None:
    found = run("ab", tmp_path, None, together=1)
    assert found == [{"most": 1, "visible": "0"}] * 2


def test_a_run_that_asks_for_none_sees_none(one_gpu: None, tmp_path: Path) -> None:
    """Otherwise every run would take the first GPU of its machine."""
    found = run("ab", tmp_path, 0, together=2)
    assert found == [{"most": 2, "visible": ""}] * 2
