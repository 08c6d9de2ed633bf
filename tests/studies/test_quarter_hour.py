"""The quarter of an hour on one GPU: its clock, with fake stages; its commands, on real logs."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies.quarter_hour import (
    GRACE,
    Outcome,
    Settings,
    Stage,
    World,
    comparisons,
    passed_tests,
    stages_of,
    walk,
)

from selfexplain.cli import parse
from selfexplain.experiments.fit.teacher import train_config
from selfexplain.experiments.options import CompareConfig
from selfexplain.experiments.run_dir import claim_comparison, claim_folder
from studies import archive, quarter_hour

ROOT = Path(quarter_hour.__file__).parent.parent
SCRIPT = ROOT / "results" / "gpu" / "quarter-hour.sh"


class Fake:
    """A clock that moves when somebody sleeps, and commands that finish a unit every few seconds.

    Attributes:
        said: what happened, with the second in which it did.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.said: list[tuple[str, float]] = []
        self.stop_at = float("inf")
        self.units: dict[str, tuple[int, float, float]] = {}
        self.left: dict[str, int] = {}

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def stage(
        self, name: str, units: int, unit: float, *, after: float = 0.0, code: int = 0, **more: Any
    ) -> Stage:
        """A stage whose command takes `unit` seconds for each unit, then some for other work."""
        self.left[name] = units
        self.units[name] = (code, unit, after)
        options = {"least": unit} | more
        return Stage(name=name, command=lambda: [name], left=lambda: self.left[name], **options)

    @property
    def world(self) -> World:
        return World(
            start=lambda stage: FakeProcess(self, stage.name),
            clock=lambda: self.now,
            sleep=self.sleep,
            stopped=lambda: self.now >= self.stop_at,
        )


class FakeProcess:
    def __init__(self, fake: Fake, name: str) -> None:
        self.fake, self.name, self.begun, self.ended = fake, name, fake.now, False
        self.at_start = fake.left[name]
        fake.said.append((f"{name} begins", fake.now))

    def poll(self) -> int | None:
        code, unit, after = self.fake.units[self.name]
        if self.ended:
            return -15
        passed = self.fake.now - self.begun
        if code == 0:
            self.fake.left[self.name] = max(0, self.at_start - int(passed / unit))
        elif passed >= unit:
            return code
        return 0 if passed >= unit * self.at_start + after else None

    def terminate(self) -> None:
        self.fake.said.append((f"{self.name} ends", self.fake.now))
        self.ended = True

    kill = terminate

    def wait(self, timeout: float | None = None) -> int:
        return -15


def ways(outcomes: list[Outcome]) -> list[tuple[str, str, tuple[int, int]]]:
    return [(o.stage, o.how, o.left) for o in outcomes]


def test_stages_follow_one_another_while_there_is_time() -> None:
    fake = Fake()
    stages = [fake.stage("a", 2, 10.0), fake.stage("b", 3, 5.0)]
    assert ways(list(walk(stages, 100, fake.world))) == [
        ("a", "done", (2, 0)),
        ("b", "done", (3, 0)),
    ]
    assert fake.said == [("a begins", 100.0), ("b begins", 120.0)]


def test_a_stage_that_runs_out_of_time_is_ended_and_goes_on_in_the_next_call() -> None:
    fake = Fake()
    stage = fake.stage("a", 10, 10.0)
    assert ways(list(walk([stage], 45, fake.world))) == [("a", "out of time", (10, 6))]
    assert fake.now <= 100 + 45 - GRACE + 1  # what is to be kept has time to be written
    assert ways(list(walk([stage], 45, fake.world))) == [("a", "out of time", (6, 2))]
    assert ways(list(walk([stage], 45, fake.world))) == [("a", "done", (2, 0))]
    assert ways(list(walk([stage], 45, fake.world))) == [("a", "nothing left", (0, 0))]


def test_a_stage_that_cannot_finish_a_unit_is_not_begun_and_a_shorter_one_is() -> None:
    fake = Fake()
    stages = [
        fake.stage("a", 1, 50.0),
        fake.stage("long", 1, 40.0),
        fake.stage("short", 9, 5.0),
        fake.stage("none", 1, 10.0),
    ]
    outcomes = ways(list(walk(stages, 80, fake.world)))
    assert outcomes == [
        ("a", "done", (1, 0)),
        ("long", "not begun", (1, 1)),
        ("short", "out of time", (9, 4)),
        ("none", "not begun", (1, 1)),
    ]
    assert "long begins" not in dict(fake.said)
    assert fake.now <= 180


def test_a_stage_has_a_limit_of_its_own() -> None:
    fake = Fake()
    stages = [fake.stage("tests", 100, 10.0, most=30.0), fake.stage("b", 1, 10.0)]
    assert ways(list(walk(stages, 100, fake.world))) == [
        ("tests", "out of time", (100, 97)),
        ("b", "done", (1, 0)),
    ]


def test_what_comes_after_the_units_waits_for_its_own_stage() -> None:
    """Costs are timed when all runs are done, those of later stages too."""
    fake = Fake()
    stages = [
        fake.stage("runs", 2, 10.0, after=500.0, end_with_units=True),
        fake.stage("b", 1, 10.0),
    ]
    assert ways(list(walk(stages, 60, fake.world))) == [
        ("runs", "done", (2, 0)),
        ("b", "done", (1, 0)),
    ]


def test_a_stage_that_fails_does_not_end_the_walk() -> None:
    fake = Fake()
    stages = [fake.stage("a", 2, 3.0, code=2), fake.stage("b", 1, 3.0)]
    assert ways(list(walk(stages, 60, fake.world))) == [
        ("a", "failed", (2, 2)),
        ("b", "done", (1, 0)),
    ]


def test_a_signal_ends_the_stage_and_begins_no_other() -> None:
    fake = Fake()
    fake.stop_at = 125.0
    stages = [fake.stage("a", 9, 10.0), fake.stage("b", 1, 1.0)]
    assert ways(list(walk(stages, 900, fake.world))) == [
        ("a", "stopped", (9, 7)),
        ("b", "not begun", (1, 1)),
    ]
    assert fake.now < 126


# The stages as they are.


def test_stages_come_in_the_order_that_was_asked_for() -> None:
    names = list(stages_of(Settings()))
    assert names[:3] == ["cuda", "30-epochs", "fast"]
    assert names[3:6] == ["costs-30-epochs", "costs-fast", "steps"]
    assert names[6:] == [f"200-epochs-seed{seed}" for seed in range(3)]


def test_settings_are_environment_variables() -> None:
    settings = Settings.of({"BUDGET": "60", "WORKERS": "3", "TOY": "", "HOME": "/"})
    assert (settings.budget, settings.workers, settings.toy) == (60.0, 3, "")
    assert settings.results == "results"


def config_of(name: str, results: Path) -> CompareConfig:
    command = comparisons(Settings(results=str(results)))[name].command()
    config = parse(command[3:])
    assert isinstance(config, CompareConfig)
    return config


@pytest.mark.parametrize("name", list(comparisons(Settings())))
def test_every_command_is_one_that_compare_takes(name: str, tmp_path: Path) -> None:
    config = config_of(name, tmp_path)
    assert config.training.cuda_graph
    assert config.training.compile
    assert config.training.precision == "bf16"
    claim_comparison(config)


def test_the_published_comparison_is_continued(tmp_path: Path) -> None:
    """The options are those of the runs that are finished, and none of the others is in the way."""
    shutil.copytree(ROOT / "results" / "baselines" / "gpu-30", tmp_path / "baselines" / "gpu-30")
    shutil.copy(ROOT / "results" / "baselines" / archive.ARCHIVE, tmp_path / "baselines")
    archive.unpack(tmp_path / "baselines")
    config = config_of("30-epochs", tmp_path)
    claim_comparison(config)
    runs = [train_config(config, o, s, config.out) for s in config.seeds for o in config.objectives]
    assert len(runs) == 33
    for run in runs:
        claim_folder(run)
    finished = sum((run.out / "result.json").exists() for run in runs)
    left = comparisons(Settings(results=str(tmp_path)))["30-epochs"].runs_left()
    assert (finished, left) == (12, 21) or finished > 12


def test_units_are_counted_by_results(tmp_path: Path) -> None:
    settings = Settings(results=str(tmp_path), toy="1")
    comparison = comparisons(settings)["fast"]
    assert (comparison.runs_left(), comparison.costs_left()) == (2, 0)
    for name in ("standard", "label_smoothing"):
        folder = comparison.out / "runs" / f"{name}-seed0"
        folder.mkdir(parents=True)
        (folder / "result.json").touch()
    assert (comparison.runs_left(), comparison.costs_left()) == (0, 1)
    timed = {"step_seconds": 0.1, "cost": 1.0}
    path = comparison.out / "cost" / "seed0.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"standard": timed}))
    assert comparison.costs_left() == 1
    path.write_text(json.dumps({"standard": timed, "label_smoothing": timed}))
    assert comparison.costs_left() == 0
    path.write_text("{")
    assert comparison.costs_left() == 1


def test_tests_that_have_passed_are_not_run_again(tmp_path: Path) -> None:
    stage = stages_of(Settings(results=str(tmp_path)))["cuda"]
    assert stage.left() == 1
    log = tmp_path / "gpu" / "cuda.log"
    log.parent.mkdir()
    log.write_text(
        "tests/cuda/test_steps.py::test_a[b-1] PASSED [ 50%]\n"
        "tests/cuda/test_steps.py::test_c FAILED [ 60%]\n"
        "tests/cuda/test_steps.py::test_d SKIPPED [ 60%]\n"
        "tests/cuda/test_steps.py::test_e "
    )
    assert passed_tests(log) == ["tests/cuda/test_steps.py::test_a[b-1]"]
    command = stage.command()
    assert command[command.index("--deselect") + 1] == "tests/cuda/test_steps.py::test_a[b-1]"
    for summary, left in {
        "== 1 failed, 9 passed in 3.21s ==": 1,
        "== 90 skipped in 0.65s ==": 1,
        "== 88 passed, 2 skipped in 99.10s (0:01:39) ==": 0,
    }.items():
        log.write_text(f"{summary}\n")
        assert stage.left() == left
    assert stage.most == 120


# The script itself.


def environment(results: Path, **more: str) -> dict[str, str]:
    source = str(Path(quarter_hour.__file__).parent.parent / "src")
    return {
        **os.environ,
        "PYTHONPATH": source,
        "PYTHON": sys.executable,
        "RESULTS": str(results),
        "ACCELERATOR": "cpu",
        "TOY": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def test_the_script_is_bash() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert os.access(SCRIPT, os.X_OK)


def test_the_script_trains_keeps_and_continues(tmp_path: Path) -> None:
    results, kept = tmp_path / "results", tmp_path / "kept"
    variables = environment(results, WORKERS="1", FAST_WORKERS="1", KEEP=str(kept))
    first = subprocess.run(
        [SCRIPT, "fast"], cwd=ROOT, env=variables, capture_output=True, text=True, check=True
    )
    assert "fast: done" in first.stdout
    assert "2 finished, 0 left" in first.stdout
    with tarfile.open(kept / "quarter-hour.tar.gz") as tar:
        names = tar.getnames()
        logs = tar.extractfile(f"gpu/{archive.ARCHIVE}")
        assert logs is not None
        with tarfile.open(fileobj=io.BytesIO(logs.read())) as inner:
            assert "fast/runs/standard-seed0/result.json" in inner.getnames()
    assert "gpu/calls.jsonl" in names
    assert not [name for name in names if "/runs/" in name or name.endswith(".pt")]
    # Elsewhere, from what was kept: nothing is done again.
    with tarfile.open(kept / "quarter-hour.tar.gz") as tar:
        tar.extractall(tmp_path / "other", filter="data")
    archive.unpack(tmp_path / "other" / "gpu")
    settings = Settings(results=str(tmp_path / "other"), toy="1", accelerator="cpu")
    stage = stages_of(settings)["fast"]
    assert stage.left() == 0


def until(met: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_sigterm_keeps_what_is_finished(tmp_path: Path) -> None:
    variables = environment(tmp_path, KEEP=str(tmp_path / "kept"))
    process = subprocess.Popen(
        [SCRIPT, "30-epochs", "fast"],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    until((tmp_path / "gpu" / "30-epochs.log").exists)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 0
    assert "30-epochs: stopped" in said
    assert "fast: not begun" in said
    assert (tmp_path / "kept" / "quarter-hour.tar.gz").exists()
    lines = (tmp_path / "gpu" / "calls.jsonl").read_text().splitlines()
    assert [json.loads(line)["how"] for line in lines] == ["stopped", "not begun"]


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        (["fats"], {}, "there is no stage fats; pass tables, or some of cuda, 30-epochs"),
        (["fast"], {"ACCELERATOR": "auto", "CUDA_VISIBLE_DEVICES": ""}, "finds no CUDA device"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], more: dict[str, str], said: str, tmp_path: Path
) -> None:
    found = subprocess.run(
        [SCRIPT, *words],
        check=False,
        cwd=ROOT,
        env=environment(tmp_path, **more),
        capture_output=True,
        text=True,
    )
    assert found.returncode != 0
    assert said in found.stderr
    assert "Traceback" not in found.stderr
