"""What is shown of one training or search: a line an epoch, or two live lines."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import DataOptions, TrainConfig
from selfexplain.report import progress as module
from selfexplain.report import run_progress
from selfexplain.report.progress import RunProgress
from selfexplain.training import TrainingOptions


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that have passed, to be set by a test."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def shown(progress: RunProgress, columns: int = 80) -> list[str]:
    out = StringIO()
    console = Console(file=out, width=columns, color_system=None)
    console.print(progress)
    return out.getvalue().splitlines()


def live(name: str = "standard, seed 0") -> RunProgress:
    console = Console(file=StringIO(), force_terminal=True, width=80)
    return RunProgress(console, name, epochs=10, step_images=50)


def test_a_terminal_shows_epoch_loss_accuracy_pace_and_what_is_left(clock: list[float]) -> None:
    progress = live()
    assert "beginning" in shown(progress)[0]
    progress(1, 100)
    clock[0] = 2.0
    progress(21, 100)
    assert "step 21/100" in shown(progress)[0]  # which may be of a teacher
    numbers = {"loss": 0.25, "train_accuracy": 80.0, "accuracy": 70.0, "step_seconds": 9.0}
    progress.log(numbers, epoch=2)
    first, second = shown(progress, columns=100)
    assert first.startswith("standard, seed 0 ")
    assert first.endswith(" epoch 3/10 left 0:00:07")  # 79 steps of 0.1 s
    assert second == (
        "loss 0.25, training accuracy 80.00 %, accuracy 70.00 %, 500 images/s, passed 0:00:02"
    )
    progress.log(numbers, epoch=10)
    assert "epoch 10/10" in shown(progress)[0]


def test_a_resumed_run_is_timed_from_where_it_goes_on(clock: list[float]) -> None:
    progress = live()
    progress(81, 100)
    clock[0] = 1.0
    progress(91, 100)
    assert shown(progress)[0].endswith("left 0:00:00")
    assert shown(progress)[1].startswith("500 images/s")


def test_numbers_are_whole_where_the_name_is_long() -> None:
    progress = live("introspective:weight=0.1,control=permuted,kind=grad_cam,layer=x, seed 0")
    progress(50, 100)
    progress.log({"loss": 1.0}, epoch=5)
    first = shown(progress)[0]
    assert len(first) <= 80
    assert first.startswith("introspective:")
    assert "epoch 6/10 left" in first


def test_elsewhere_each_epoch_has_a_line(tmp_path: Path) -> None:
    out = StringIO()
    config = TrainConfig(
        data=DataOptions(data="digits", train_size=100),
        training=TrainingOptions(epochs=2, batch_size=50),
        objective="standard",
        out=tmp_path / "run",
    )
    with run_progress(Console(file=out), "mine", epochs=2, step_images=50) as progress:
        run_training(config, on_step=progress, watchers=[progress])
    first, second = out.getvalue().splitlines()
    assert first.startswith("mine: epoch 1/2, loss ")
    assert second.startswith("mine: epoch 2/2, loss ")
    for words in ("training accuracy ", " images/s", "left 0:00:00"):
        assert words in second
    assert "\x1b" not in out.getvalue()


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with run_progress(Console(), "mine", epochs=2, step_images=50, quiet=True) as progress:
        progress.log({"loss": 1.0}, epoch=1)
    assert capsys.readouterr().out == ""
