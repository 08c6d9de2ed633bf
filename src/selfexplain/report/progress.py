"""Progress bars: of a run, and of many side by side."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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


# How a sweep gets on: a live table on a terminal, plain lines elsewhere.


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

    def seconds_left(self, now: float) -> float | None:
        """By the pace of this attempt, which may have begun in the middle."""
        walked = self.done - (self.first or 0)
        return (self.total - self.done) * (now - self.since) / walked if walked else None


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
                self._step(self.running[name], message)
            case Done():
                self.states[name] = "done"
                self._ended(name, "done")
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

    def _step(self, run: _Running, step: StepsDone) -> None:
        if run.first is None:
            run.first, run.since = step.done, time.monotonic()
        run.done, run.total = step.done, step.total

    def _epochs_of(self, run: _Running) -> str:
        if not run.total:
            return "beginning"
        if self.epochs is None:
            return f"step {run.done}/{run.total}"
        return f"epoch {min(run.done * self.epochs // run.total + 1, self.epochs)}/{self.epochs}"

    def _ended(self, name: str, how: str, always: bool = False) -> None:
        run = self.running.pop(name, None)
        took = f" after {_clock(time.monotonic() - run.since)}" if run else ", found finished"
        self._say(f"{name}: {how if always else how + took} ({self.counts()})", always)

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


def _clock(seconds: float | None) -> str:
    """Hours, minutes and seconds; dashes for what is not known yet."""
    if seconds is None:
        return "-:--:--"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
