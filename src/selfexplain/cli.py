"""The command line: one subcommand for each recipe (`selfexplain --help` lists them)."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from selfexplain.app.serve import AppConfig
from selfexplain.commands import COMMANDS, DemoConfig
from selfexplain.errors import InputError, exit_on_bad_input
from selfexplain.limits import OptionError
from selfexplain.recipes.explain_options import ExplainConfig
from selfexplain.recipes.export_options import ExportConfig
from selfexplain.recipes.lookup_options import LookupConfig
from selfexplain.recipes.objective_options import flag_of
from selfexplain.recipes.options import CompareConfig, TrainConfig
from selfexplain.recipes.report_options import ReportConfig
from selfexplain.recipes.retrain_options import RetrainConfig
from selfexplain.recipes.searches_options import SearchesConfig
from selfexplain.recipes.study_kd_options import StudyKDConfig
from selfexplain.writing import no_room_said

Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[CompareConfig, tyro.conf.subcommand("compare")]
    | Annotated[StudyKDConfig, tyro.conf.subcommand("study-kd")]
    | Annotated[ExplainConfig, tyro.conf.subcommand("explain")]
    | Annotated[SearchesConfig, tyro.conf.subcommand("search")]
    | Annotated[RetrainConfig, tyro.conf.subcommand("retrain")]
    | Annotated[LookupConfig, tyro.conf.subcommand("lookup")]
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
    | Annotated[ReportConfig, tyro.conf.subcommand("report")]
    | Annotated[AppConfig, tyro.conf.subcommand("app")]
    | Annotated[DemoConfig, tyro.conf.subcommand("demo")]
)


def parse(arguments: Sequence[str] | None = None) -> Command:
    """What a command line asks for; nothing is run. Unknown words end the program with code 2.

    Example:
        >>> parse(["train", "--data", "digits", "--out", "runs/one"]).objective
        'introspective'
    """
    words = sys.argv[1:] if arguments is None else arguments
    for word, before in zip(words, ["", *words], strict=False):
        if not word.partition("=")[2] and (word == "" or word.endswith("=")):
            raise InputError(
                f"{word.rstrip('=') or before or 'the command'} is followed by an empty text; pass "
                "a value, or leave it out"
            )
    try:
        command: Command = tyro.cli(
            Command,
            prog="selfexplain",
            description="Neural networks that learn by explaining themselves.",
            args=arguments,
            config=(tyro.conf.HelptextFromCommentsOff,),
        )
    except OptionError as error:  # named as it was typed
        field = error.field.rstrip("_")
        said = str(error).removeprefix(field)
        raise InputError(flag_of(error.owner, error.field) + said) from error
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; bad input is one sentence on stderr and exit code 2."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # ours is enough
    try:
        with exit_on_bad_input("selfexplain"), no_room_said():
            command = parse(arguments)
            from rich.console import Console  # not above: help and refusals do without

            console = Console(markup=False, highlight=False)
            # Where the reader of what is printed goes away, as head does, the work goes on.
            console.on_broken_pipe = lambda: setattr(console, "quiet", True)  # type: ignore[method-assign]
            COMMANDS[type(command)](command, console)
    except KeyboardInterrupt:
        print("selfexplain: stopped; finished epochs are kept", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
