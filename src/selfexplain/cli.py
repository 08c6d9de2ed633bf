"""The command line: selfexplain train | compare | explain | search | demo."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from selfexplain.errors import InputError
from selfexplain.recipes.compare import run_comparison
from selfexplain.recipes.demo import demo_config, demo_picture
from selfexplain.recipes.environment import first_process
from selfexplain.recipes.explain import ExplainConfig, explain_images
from selfexplain.recipes.options import CompareConfig, TrainConfig
from selfexplain.recipes.prepare import load
from selfexplain.recipes.search import run_search
from selfexplain.recipes.search_options import SearchConfig
from selfexplain.recipes.train import run_training
from selfexplain.report import comparison_markdown, comparison_table, save_figure


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Train three ways on real images of digits, compare, and draw explanations."""

    out: Path = Path("runs/demo")
    """Folder for the results."""


Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[CompareConfig, tyro.conf.subcommand("compare")]
    | Annotated[ExplainConfig, tyro.conf.subcommand("explain")]
    | Annotated[SearchConfig, tyro.conf.subcommand("search")]
    | Annotated[DemoConfig, tyro.conf.subcommand("demo")]
)


def parse(arguments: Sequence[str] | None = None) -> Command:
    """What a command line asks for; nothing is run. Unknown words end the program with code 2.

    Example:
        >>> parse(["train", "--data", "digits", "--out", "runs/one"]).objective
        'introspective'
    """
    command: Command = tyro.cli(
        Command,
        prog="selfexplain",
        description="Neural networks that learn by explaining themselves.",
        args=arguments,
        config=(tyro.conf.HelptextFromCommentsOff,),
    )
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; bad input is one sentence on stderr and exit code 2."""
    console = Console(markup=False, highlight=False)
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # ours is enough
    try:
        _run(parse(arguments), console)
    except InputError as error:
        print(f"selfexplain: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("selfexplain: stopped; finished epochs are kept", file=sys.stderr)
        sys.exit(130)


def _run(command: Command, console: Console) -> None:
    match command:
        case TrainConfig():
            _train(command, console)
        case CompareConfig():
            _compare(command, console)
        case ExplainConfig():
            save_figure(explain_images(command), command.out)
            console.print(f"Picture: {command.out}", soft_wrap=True)
        case SearchConfig():
            _search(command, console)
        case DemoConfig():
            _demo(command, console)


def _train(config: TrainConfig, console: Console) -> None:
    with _progress(console) as advance:
        result = run_training(
            config, on_step=lambda done, total: advance(config.objective, config.seed, done, total)
        )
    if first_process():
        console.print(
            f"{result['objective']}, seed {result['seed']}: accuracy {result['accuracy']:.2f} %, "
            f"NLL {result['nll']:.3f}, Brier {result['brier']:.3f}, ECE {result['ece']:.1f} %"
        )
        console.print(f"Run: {config.out}", soft_wrap=True)


def _compare(config: CompareConfig, console: Console) -> None:
    with _progress(console) as advance:
        results = run_comparison(config, on_step=advance)
    if first_process():
        console.print(comparison_table(results))
        (config.out / "table.md").write_text(comparison_markdown(results))
        console.print(f"Results: {config.out / 'results.json'}", soft_wrap=True)


def _search(config: SearchConfig, console: Console) -> None:
    with _progress(console) as advance:
        result = run_search(
            config,
            on_step=lambda done, total: advance(
                f"{config.method} in {config.space}", config.seed, done, total
            ),
        )
    console.print(f"Cell: {result['genotype']}", soft_wrap=True)
    if result["collapsed"]:
        console.print(
            f"Warning: {result['skips']} of its {result['edges']} edges are skip connections, a "
            "known failure of gradient-based search: look at the curves, stop earlier with "
            "--stop-at-skips, or try other seeds",
            soft_wrap=True,
        )
    if result.get("stopped_early"):
        console.print(f"Stopped after epoch {result['epochs']}: too many skip connections")
    if result.get("skipped_steps"):
        console.print(f"{result['skipped_steps']} steps were skipped: gradients were not finite")
    console.print(f"Picture: {config.out / 'cell.svg'}", soft_wrap=True)
    console.print(f"Search: {config.out}", soft_wrap=True)


def _demo(command: DemoConfig, console: Console) -> None:
    config = demo_config(command.out)
    _compare(config, console)
    picture = demo_picture(config, load(config.data))
    console.print(f"Picture: {picture}", soft_wrap=True)
    console.print(f"Folder: {config.out.resolve()}", soft_wrap=True)


class _Advance:
    """Moves the progress bar: one bar, for the run at work."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("loading data", total=None)
        self.run = ("", -1)

    def __call__(self, objective: str, seed: int, done: int, total: int) -> None:
        """Show that a step is done."""
        if (objective, seed) != self.run:
            self.run = (objective, seed)
            self.progress.reset(self.task, description=f"{objective}, seed {seed}", total=total)
        self.progress.update(self.task, completed=done)


@contextmanager
def _progress(console: Console) -> Iterator[_Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, passed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    quiet = not first_process()
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress:
        yield _Advance(progress)


if __name__ == "__main__":
    main()
