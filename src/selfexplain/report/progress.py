"""The progress bar of a run, or of several one after the other."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


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
