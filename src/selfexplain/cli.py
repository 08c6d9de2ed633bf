"""The command line: selfexplain train | compare | explain | search | retrain | lookup | demo."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from selfexplain.errors import InputError
from selfexplain.recipes.compare import run_comparison
from selfexplain.recipes.demo import demo_config, demo_picture, demo_search
from selfexplain.recipes.environment import first_process
from selfexplain.recipes.explain import ExplainConfig, explain_images
from selfexplain.recipes.lookup import LookupConfig, lookup_table, run_lookup
from selfexplain.recipes.options import CompareConfig, RunConfig, TrainConfig
from selfexplain.recipes.prepare import load
from selfexplain.recipes.retrain_options import RetrainConfig
from selfexplain.recipes.search import run_search
from selfexplain.recipes.search_options import SearchConfig
from selfexplain.recipes.searches import run_searches
from selfexplain.recipes.searches_options import SearchesConfig
from selfexplain.recipes.train import run_training
from selfexplain.report import (
    cell_text,
    comparison_markdown,
    comparison_table,
    progress_bar,
    save_figure,
    searches_table,
    sweep_progress,
)
from selfexplain.spaces import from_string


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Train three ways on real images of digits, compare, draw explanations, and search a cell."""

    out: Path = Path("runs/demo")
    """Folder for the results."""


Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[CompareConfig, tyro.conf.subcommand("compare")]
    | Annotated[ExplainConfig, tyro.conf.subcommand("explain")]
    | Annotated[SearchesConfig, tyro.conf.subcommand("search")]
    | Annotated[RetrainConfig, tyro.conf.subcommand("retrain")]
    | Annotated[LookupConfig, tyro.conf.subcommand("lookup")]
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
        case TrainConfig() | RetrainConfig():
            _train(command, console)
        case CompareConfig():
            _compare(command, console)
        case ExplainConfig():
            save_figure(explain_images(command), command.out)
            console.print(f"Picture: {command.out}", soft_wrap=True)
        case SearchesConfig():
            if command.seeds:
                _searches(command, console)
            else:
                _search(command.each()[0], console)
        case LookupConfig():
            console.print(lookup_table(command.genotype, run_lookup(command)))
        case DemoConfig():
            _demo(command, console)


def _train(config: RunConfig, console: Console) -> None:
    with progress_bar(console, quiet=not first_process()) as advance:
        result = run_training(
            config, on_step=lambda done, total: advance(config.objective, config.seed, done, total)
        )
    if first_process():
        console.print(
            f"{result['objective']}, seed {result['seed']}: accuracy {result['accuracy']:.2f} %, "
            f"NLL {result['nll']:.3f}, Brier {result['brier']:.3f}, ECE {result['ece']:.1f} %"
        )
        if "parameters" in result:
            console.print(
                f"Network: {result['parameters'] / 1e6:.3f} M parameters, "
                f"{result['multiply_adds'] / 1e6:.1f} M multiply-adds for an image"
            )
        console.print(f"Run: {config.out}", soft_wrap=True)


def _compare(config: CompareConfig, console: Console) -> None:
    with sweep_progress(console, epochs=config.training.epochs, quiet=not first_process()) as watch:
        results = run_comparison(config, watch)
    if first_process():
        console.print(comparison_table(results))
        (config.out / "table.md").write_text(comparison_markdown(results))
        console.print(f"Results: {config.out / 'results.json'}", soft_wrap=True)


def _search(config: SearchConfig, console: Console) -> None:
    with progress_bar(console, quiet=not first_process()) as advance:
        result = run_search(
            config,
            on_step=lambda done, total: advance(
                f"{config.method} in {config.space}", config.seed, done, total
            ),
        )
    console.print(cell_text(from_string(result["genotype"])), soft_wrap=True)
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
    console.print(f"Drawn cell: {config.out / 'cell.svg'}", soft_wrap=True)
    console.print(f"Genotype: {config.out / 'genotype.json'}", soft_wrap=True)
    console.print(f"Search: {config.out}", soft_wrap=True)


def _searches(config: SearchesConfig, console: Console) -> None:
    with sweep_progress(console, epochs=config.epochs, quiet=not first_process()) as watch:
        results = run_searches(config, watch)
    console.print(searches_table(results))
    console.print(f"Results: {config.out / 'searches.json'}", soft_wrap=True)


def _demo(command: DemoConfig, console: Console) -> None:
    config = demo_config(command.out)
    _compare(config, console)
    picture = demo_picture(config, load(config.data))
    console.print(f"Picture: {picture}", soft_wrap=True)
    console.print("\nA short search by learning by self-explanation:")
    _search(demo_search(command.out), console)
    console.print(f"Folder: {config.out.resolve()}", soft_wrap=True)


if __name__ == "__main__":
    main()
