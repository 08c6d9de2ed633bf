"""Progress: of a training or search, of many side by side, of anything that takes steps."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from selfexplain.launchers import Done, Failed, Message, Started, StepsDone, Waiting

# What both displays of runs count.


REDRAWN_EACH = 0.25
"""Seconds."""


@dataclass(slots=True)
class _Running:
    """A trial at work: where, since when, and its steps."""

    where: str
    since: float
    first: int | None = None
    done: int = 0
    total: int = 0

    def step(self, step: StepsDone) -> None:
        """Take note of a step."""
        if self.first is None:
            self.first, self.since = step.done, time.monotonic()
        self.done, self.total = step.done, step.total

    def seconds_a_step(self, now: float) -> float | None:
        """By the pace of this attempt, which may have begun in the middle."""
        walked = self.done - (self.first or 0)
        return (now - self.since) / walked if walked else None

    def seconds_left(self, now: float) -> float | None:
        """By the pace of a step."""
        step = self.seconds_a_step(now)
        return None if step is None else (self.total - self.done) * step


# A plain bar.


class Advance:
    """Moves the progress bar: one bar, for the run at work."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("loading data", total=None)
        self.run = ("", -1)

    def __call__(self, name: str, seed: int, done: int, total: int) -> None:
        """Show that a step of this run is done."""
        if (name, seed) != self.run:
            self.run = (name, seed)
            self.progress.reset(self.task, description=f"{name}, seed {seed}", total=total)
        self.progress.update(self.task, completed=done)


@contextmanager
def progress_bar(console: Console, *, quiet: bool = False) -> Iterator[Advance]:
    """Show a bar while the block runs; call what is yielded after every step.

    Args:
        console: to draw on.
        quiet: draw nothing.

    Example:
        >>> with progress_bar(Console(quiet=True)) as advance:
        ...     advance("standard", 0, 1, 10)
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, passed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress:
        yield Advance(progress)


# How one training or search gets on: two live lines on a terminal, a line for each epoch elsewhere.


class RunProgress:
    """Takes the steps and the epochs of a run, and shows them.

    It is called after every step, and is a logger, which is told of every epoch.

    Args:
        console: to print on.
        name: of the run.
        epochs: of the run.
        step_images: how many images a step trains on.

    Example:
        >>> progress = RunProgress(Console(), "standard, seed 0", epochs=3, step_images=50)
        >>> progress(10, 30)
        >>> progress.log({"loss": 0.5, "train_accuracy": 90.0, "step_seconds": 0.1}, epoch=1)
        standard, seed 0: epoch 1/3, loss 0.5, training accuracy 90.00 %, 500 images/s
    """

    def __init__(self, console: Console, name: str, *, epochs: int, step_images: int) -> None:
        self.console, self.name = console, name
        self.epochs, self.step_images = epochs, step_images
        self.steps = _Running("", time.monotonic())
        self.done_epochs = 0
        self.numbers: Mapping[str, float] = {}

    def __call__(self, done: int, total: int) -> None:
        """Take note of a step."""
        self.steps.step(StepsDone(done, total))

    def log(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Take note of an epoch, and print it where there is no live display."""
        self.numbers, self.done_epochs = numbers, epoch
        if not self.console.is_terminal:
            left = self.steps.seconds_left(time.monotonic())
            said = [f"epoch {epoch}/{self.epochs}", *epoch_said(numbers), *self._pace(numbers)]
            said += [] if left is None else [f"left {_clock(left)}"]
            self.console.print(f"{self.name}: {', '.join(said)}", soft_wrap=True)

    def finish(self, scores: Mapping[str, float]) -> None:
        """Scores are printed by the command."""

    def close(self, *, failed: bool) -> None:
        """There is nothing to close."""

    def __rich__(self) -> RenderableType:
        """The run's bar, and below it the numbers of the last epoch."""
        now = time.monotonic()
        table = Table.grid(padding=(0, 1))
        table.add_row(
            Text(self.name, overflow="ellipsis", no_wrap=True),
            ProgressBar(total=self.steps.total or None, completed=self.steps.done, width=20),
            Text(self._place(), no_wrap=True),
            Text(f"left {_clock(self.steps.seconds_left(now))}", no_wrap=True),
        )
        said = [*epoch_said(self.numbers), *self._pace({}, now), f"passed {self._passed(now)}"]
        return Group(table, Text(", ".join(said)))

    def _place(self) -> str:
        """Epochs are told by the log, since steps are also those of a teacher's training."""
        if not self.steps.total:
            return "beginning"
        if not self.done_epochs:
            return f"step {self.steps.done}/{self.steps.total}"
        return f"epoch {min(self.done_epochs + 1, self.epochs)}/{self.epochs}"

    def _pace(self, numbers: Mapping[str, float], now: float | None = None) -> list[str]:
        """Images a second: of the epoch, or of all steps so far."""
        seconds = numbers.get("step_seconds") if now is None else self.steps.seconds_a_step(now)
        return [f"{self.step_images / seconds:,.0f} images/s"] if seconds else []

    def _passed(self, now: float) -> str:
        return _clock(now - self.steps.since)


def epoch_said(numbers: Mapping[str, float]) -> list[str]:
    """Losses and accuracies of an epoch, in words.

    Example:
        >>> epoch_said({"losses/audience": 0.5, "validation_accuracy": 30.0})
        ['audience loss 0.5', 'validation accuracy 30.00 %']
    """
    losses = {"loss": "loss"} | {
        name: f"{name.removeprefix('losses/')} loss" for name in numbers if "losses/" in name
    }
    accuracies = {
        "train_accuracy": "training accuracy",
        "accuracy": "accuracy",
        "validation_accuracy": "validation accuracy",
    }
    said = [f"{words} {numbers[name]:.4g}" for name, words in losses.items() if name in numbers]
    return said + [
        f"{words} {numbers[name]:.2f} %" for name, words in accuracies.items() if name in numbers
    ]


@contextmanager
def run_progress(
    console: Console, name: str, *, epochs: int, step_images: int, quiet: bool = False
) -> Iterator[RunProgress]:
    """Show a run while the block runs; what is yielded is told of its steps and epochs.

    Args:
        console: to show it on; two live lines if it is a terminal, else a line for each epoch.
        name: of the run.
        epochs: of the run.
        step_images: how many images a step trains on.
        quiet: show nothing.

    Example:
        >>> with run_progress(Console(quiet=True), "a", epochs=1, step_images=9) as progress:
        ...     progress(1, 10)
    """
    if quiet:
        console = Console(quiet=True)
    progress = RunProgress(console, name, epochs=epochs, step_images=step_images)
    if not console.is_terminal:
        yield progress
        return
    with Live(progress, console=console, refresh_per_second=1 / REDRAWN_EACH, transient=True):
        yield progress


# How a sweep gets on: a live table on a terminal, plain lines elsewhere.


class SweepProgress:
    """Keeps count of a sweep's trials, and shows them.

    Args:
        console: to print on.
        epochs: of every trial, to show steps in epochs; None to show steps.

    Example:
        >>> progress = SweepProgress(Console(quiet=True), epochs=2)
        >>> for message in (Waiting(), Started("here"), StepsDone(5, 10)):
        ...     progress("a", message)
        >>> progress.counts()
        'done 0 of 1, running 1, waiting 0, failed 0, tried again 0'
    """

    def __init__(self, console: Console, epochs: int | None) -> None:
        self.console, self.epochs = console, epochs
        self.states: dict[str, str] = {}
        self.running: dict[str, _Running] = {}
        self.tried_again = 0
        self.began = time.monotonic()

    def __call__(self, name: str, message: Message) -> None:
        """Take note of news, and print them where there is no live table."""
        match message:
            case Waiting():
                self.states[name] = "waiting"
            case Started():
                self.states[name] = "running"
                self.running[name] = _Running(message.where, time.monotonic())
                self._say(f"{name}: begun ({message.where})")
            case StepsDone():
                self.running[name].step(message)
            case Done():
                self.states[name] = "done"
                self._ended(name, "done", more=_accuracy_said(message.result))
            case Failed():
                self.states[name] = "waiting" if message.retry else "failed"
                self.tried_again += message.retry
                again = ", tried again from its last checkpoint" if message.retry else ""
                self._ended(name, f"failed: {message.reason}{again}", always=True)

    def counts(self) -> str:
        """One line: how many trials are how far."""
        count = Counter(list(self.states.values()))
        return (
            f"done {count['done']} of {len(self.states)}, running {count['running']}, "
            f"waiting {count['waiting']}, failed {count['failed']}, tried again {self.tried_again}"
        )

    def __rich__(self) -> RenderableType:
        """One line for each trial at work, and the counts."""
        table = Table.grid(padding=(0, 1))
        now = time.monotonic()
        for name, run in list(self.running.items()):  # drawn by a thread of its own
            table.add_row(
                Text(name, overflow="ellipsis", no_wrap=True),
                ProgressBar(total=run.total or None, completed=run.done, width=20),
                Text(self._epochs_of(run), no_wrap=True),
                Text(f"left {_clock(run.seconds_left(now))}", no_wrap=True),
                Text(run.where, style="dim", no_wrap=True),
            )
        return Group(table, Text(f"{self.counts()}, passed {_clock(now - self.began)}"))

    def _epochs_of(self, run: _Running) -> str:
        if not run.total:
            return "beginning"
        if self.epochs is None:
            return f"step {run.done}/{run.total}"
        return f"epoch {min(run.done * self.epochs // run.total + 1, self.epochs)}/{self.epochs}"

    def _ended(self, name: str, how: str, always: bool = False, more: str = "") -> None:
        run = self.running.pop(name, None)
        took = f" after {_clock(time.monotonic() - run.since)}" if run else ", found finished"
        self._say(f"{name}: {how if always else how + took}{more} ({self.counts()})", always)

    def _say(self, line: str, always: bool = False) -> None:
        if always or not self.console.is_terminal:
            self.console.print(line, soft_wrap=True)


@contextmanager
def sweep_progress(
    console: Console, *, epochs: int | None, quiet: bool = False
) -> Iterator[SweepProgress]:
    """Show a sweep while the block runs; give what is yielded to the scheduler as its watch.

    Args:
        console: to show it on; a live table if it is a terminal, else a line for each beginning and
            end.
        epochs: of every trial; None if they differ, to show steps.
        quiet: show nothing.

    Example:
        >>> with sweep_progress(Console(quiet=True), epochs=1) as watch:
        ...     watch("standard-seed0", Waiting())
    """
    if quiet:
        console = Console(quiet=True)
    progress = SweepProgress(console, epochs)
    if not console.is_terminal:
        yield progress
        return
    with Live(progress, console=console, refresh_per_second=1 / REDRAWN_EACH, transient=True):
        yield progress


def _accuracy_said(result: Any) -> str:
    """The accuracy of a training that is done; searches have none."""
    accuracy = result.get("accuracy") if isinstance(result, dict) else None
    return f", accuracy {accuracy:.2f} %" if isinstance(accuracy, float) else ""


def _clock(seconds: float | None) -> str:
    """Hours, minutes and seconds; dashes for what is not known yet."""
    if seconds is None:
        return "-:--:--"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
