"""The command line: one subcommand for each experiment (`selfexplain --help` lists them)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import tyro

from selfexplain.app.serve import AppConfig, serve
from selfexplain.command_line.flags import check_known, check_required, check_values, is_flag, near
from selfexplain.command_line.help import HELP, HELP_ALL, command_page, overview
from selfexplain.errors import InputError, exit_on_bad_input, first_line
from selfexplain.experiments.nas_study_options import NASStudyConfig
from selfexplain.experiments.options import (
    CompareConfig,
    FinetuneConfig,
    RetrainConfig,
    RunConfig,
    StudyKDConfig,
    TrainConfig,
    first_process,
)
from selfexplain.experiments.reading_options import (
    ExplainConfig,
    ExportConfig,
    ReportConfig,
    TableConfig,
)
from selfexplain.experiments.search_options import LookupConfig, SearchConfig, SearchesConfig
from selfexplain.files import atomic_file, no_room_said
from selfexplain.limits import OptionError, check_options, hints_of, is_url, url_of
from selfexplain.objectives.options import ObjectiveOptions
from selfexplain.records import escaped

if TYPE_CHECKING:
    from rich.console import Console

    from selfexplain.launchers import Store


# What each subcommand does: run its experiment, then print and save what came of it.
#
# Each imports its experiment itself, so that none waits for what another needs.


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Explain a photograph, compare three objectives on digits, and search for a cell."""

    out: Path = Path("runs/demo")
    """Folder for the results."""

    def __post_init__(self) -> None:
        """Refuse a path that no file system has."""
        check_options(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrintConfig:
    """Print a configuration file of a command: every option, its meaning and its default.

    Flags after the command stand in the file in place of the defaults.
    """

    command: tyro.conf.Positional[str]
    """Command whose options are printed."""
    flags: tyro.conf.Positional[tuple[str, ...]] = ()
    """Flags of that command."""


def _print_config(config: PrintConfig, console: Console) -> None:
    from selfexplain.command_line.config_files import commented

    text = commented(config.command, TYPES[config.command], config.flags)
    console.print(text.rstrip("\n"), soft_wrap=True, emoji=False)


def _train(config: RunConfig, console: Console) -> None:
    from selfexplain.experiments.fit.train import run_training
    from selfexplain.report.progress import run_progress

    with run_progress(
        console,
        f"{config.objective}, seed {config.seed}",
        epochs=config.training.epochs,
        step_images=config.training.batch_size,
        quiet=not first_process(),
    ) as progress:
        result = run_training(config, on_step=progress, watchers=[progress])
    if first_process():
        console.print(
            f"{result['objective']}, seed {result['seed']}: accuracy {result['accuracy']:.2f} %, "
            f"NLL {result['nll']:.3f}, Brier {result['brier']:.3f}, ECE {result['ece']:.1f} %"
        )
        if "corrupted_accuracy" in result:
            console.print(f"Corrupted images: mean accuracy {result['corrupted_accuracy']:.2f} %")
        if "parameters" in result:
            console.print(
                f"Network: {result['parameters'] / 1e6:.3f} M parameters, "
                f"{result['multiply_adds'] / 1e6:.1f} M multiply-adds for an image"
            )
        console.print(f"Run: {config.out}", soft_wrap=True)


def _finetune(config: FinetuneConfig, console: Console) -> None:
    training = config.as_training()
    _train(training, console)
    if first_process():
        page = _report_after(ReportConfig(dirs=(training.out,)), console)
        if page is not None:
            from selfexplain.experiments.read_runs import read_record
            from selfexplain.report.sections import plain_summary

            console.print(plain_summary(read_record(training.out)), soft_wrap=True)
        if config.open and page is not None:
            import webbrowser

            webbrowser.open(page.resolve().as_uri())


@contextmanager
def _stored(config: Any, console: Console) -> Iterator[tuple[Any, Store | None]]:
    """A sweep on this machine; if its folder is in storage, what was added is copied there."""
    if not is_url(config.out):
        yield config, None
        return
    from selfexplain.experiments.compare.grid import stored

    with stored(config) as (here, store):
        yield here, store
    console.print(f"Stored: {url_of(config.out)}", soft_wrap=True)


def _compare(config: CompareConfig, console: Console) -> None:
    with _stored(config, console) as (here, store):
        _compare_and_tell(here, console, store)
        if first_process():
            _report_after(ReportConfig(dirs=(here.out,)), console)


def _compare_and_tell(config: CompareConfig, console: Console, store: Store | None = None) -> None:
    from selfexplain.experiments.compare.compare import run_comparison
    from selfexplain.report.progress import sweep_progress
    from selfexplain.report.tables import comparison_markdown, comparison_table

    with sweep_progress(console, epochs=config.training.epochs, quiet=not first_process()) as watch:
        results = run_comparison(config, watch, store=store)
    if first_process():
        from selfexplain.report.figures import (
            cost_figure,  # what draws comes after refusals
            save_figure,
        )

        console.print(comparison_table(results))
        _write_text(config.out / "table.md", comparison_markdown(results))
        timed = [row for row in results["summary"] if "cost" in row]
        if timed:
            save_figure(cost_figure(timed), config.out / "accuracy-cost.png")
        console.print(f"Results: {config.out / 'results.json'}", soft_wrap=True)


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def _explain(config: ExplainConfig, console: Console) -> None:
    if config.evaluate:
        from selfexplain.experiments.explain.evaluate import evaluate_explanations
        from selfexplain.report.progress import progress_bar
        from selfexplain.report.tables import quality_table

        with progress_bar(console) as advance:
            results = evaluate_explanations(
                config,
                lambda run, done, total: advance(run, config.quality.seed, done, total),
            )
        console.print(quality_table(results))
        console.print(f"Results: {config.results_file}", soft_wrap=True)
    else:
        from selfexplain.experiments.explain.explain import explain_images
        from selfexplain.report.figures import save_figure

        assert config.out is not None, "the configuration asks for it"
        save_figure(explain_images(config), config.out)
        console.print(f"Picture: {config.out}", soft_wrap=True)


def _study(config: StudyKDConfig, console: Console) -> None:
    with _stored(config, console) as (here, store):
        _study_and_tell(here, console, store)


def _study_and_tell(config: StudyKDConfig, console: Console, store: Store | None) -> None:
    from selfexplain.experiments.compare.study_kd import run_study
    from selfexplain.report.progress import sweep_progress

    with sweep_progress(console, epochs=config.training.epochs, quiet=not first_process()) as watch:
        study = run_study(config, watch, store=store)
    if first_process():
        from selfexplain.report.figures import save_figure
        from selfexplain.report.study import study_figure, study_markdown, study_table

        console.print(study_table(study))
        _write_text(config.out / "table.md", study_markdown(study))
        save_figure(study_figure(study), config.out / "study.png")
        console.print(f"Picture: {config.out / 'study.png'}", soft_wrap=True)
        console.print(f"Results: {config.out / 'study.json'}", soft_wrap=True)
        _report_after(ReportConfig(dirs=(config.out,)), console)


def _report_after(config: ReportConfig, console: Console) -> Path | None:
    """The report that follows a run by itself: what was computed stands, whatever becomes of it."""
    try:
        return _report(config, console)
    except Exception as error:  # it draws what users name, and what earlier runs left
        folders = " ".join(map(str, config.dirs))
        console.print(
            f"Warning: there is no report ({escaped(first_line(error))}); the results are "
            f"complete, and selfexplain report {escaped(folders)} tries again",
            soft_wrap=True,
        )
    return None


def _report(config: ReportConfig, console: Console) -> Path:
    config.check_folders()  # before what draws is imported
    from selfexplain.experiments.report import write_report

    path = write_report(config)
    console.print(f"Report: {path}", soft_wrap=True)
    return path


def _table(config: TableConfig, console: Console) -> None:
    from selfexplain.experiments.table import table_figure, write_table

    text = write_table(config)
    if config.out is not None:
        _write_text(config.out, text)
        console.print(f"Table: {config.out}", soft_wrap=True)
    elif not config.figure:
        console.print(text.rstrip("\n"), soft_wrap=True, emoji=False)
    if config.figure:
        from selfexplain.report.figures import save_figure

        figure = table_figure(config)
        for path in config.figure:
            save_figure(figure, path)
            console.print(f"Picture: {path}", soft_wrap=True)


def _export(config: ExportConfig, console: Console) -> None:
    from selfexplain.experiments.export import export_run

    for path in export_run(config):
        console.print(f"Written: {path}", soft_wrap=True)


def _look_up(config: LookupConfig, console: Console) -> None:
    from selfexplain.experiments.search.lookup import lookup_table, run_lookup

    console.print(lookup_table(config.genotype, run_lookup(config)))


def _one_or_more_searches(config: SearchesConfig, console: Console) -> None:
    if config.seeds:
        with _stored(config, console) as (here, store):
            _searches(here, console, store)
    else:
        _search(config.each()[0], console)


def _search(config: SearchConfig, console: Console) -> None:
    from selfexplain.experiments.search.run import run_search
    from selfexplain.report.progress import run_progress

    with run_progress(
        console,
        f"{config.method} in {config.space}, seed {config.seed}",
        epochs=config.all_epochs,
        step_images=2 * config.batch_size,  # of either half of the training images
        quiet=not first_process(),
    ) as progress:
        result = run_search(config, on_step=progress, watchers=[progress])
    if first_process():
        _tell_of_search(config, result, console)


def _tell_of_search(config: SearchConfig, result: dict[str, Any], console: Console) -> None:
    from selfexplain.report.cell_drawing import cell_text
    from selfexplain.spaces import from_string

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
    _report_after(ReportConfig(dirs=(config.out,)), console)


def _searches(config: SearchesConfig, console: Console, store: Store | None) -> None:
    from selfexplain.experiments.search.run import run_searches
    from selfexplain.report.progress import sweep_progress
    from selfexplain.report.tables import searches_table

    with sweep_progress(console, epochs=config.epochs, quiet=not first_process()) as watch:
        results = run_searches(config, watch, store=store)
    console.print(searches_table(results))
    console.print(f"Results: {config.out / 'searches.json'}", soft_wrap=True)
    _report_after(ReportConfig(dirs=(config.out,)), console)


def _nas_study(config: NASStudyConfig, console: Console) -> None:
    with _stored(config, console) as (here, store):
        _nas_study_and_tell(here, console, store)


def _nas_study_and_tell(config: NASStudyConfig, console: Console, store: Store | None) -> None:
    from selfexplain.experiments.search.nas_study import run_nas_study
    from selfexplain.report.nas_study import (
        anytime_figure,
        nas_study_latex,
        nas_study_markdown,
        nas_study_table,
    )
    from selfexplain.report.progress import sweep_progress

    with sweep_progress(console, epochs=None, quiet=not first_process()) as watch:
        results = run_nas_study(config, watch, store=store)
    if first_process():
        from selfexplain.report.figures import save_figure  # what draws comes after refusals

        console.print(results["sentence"], soft_wrap=True)
        console.print(nas_study_table(results))
        _write_text(config.out / "table.md", nas_study_markdown(results))
        _write_text(config.out / "table.tex", nas_study_latex(results))
        if results["reference"] is not None:
            save_figure(anytime_figure(results), config.out / "anytime.png")
        console.print(f"Results: {config.out / 'results.json'}", soft_wrap=True)
        _report_after(ReportConfig(dirs=(config.out,)), console)


def _app(config: AppConfig, console: Console) -> None:
    del console  # the app prints its address once it is served
    serve(config)


def _demo(command: DemoConfig, console: Console) -> None:
    from selfexplain.experiments.data import load
    from selfexplain.experiments.demo import (
        demo_config,
        demo_photograph,
        demo_picture,
        demo_search,
    )
    from selfexplain.experiments.run_dir import claim_comparison

    config = demo_config(command.out)
    claim_comparison(config)  # before anything is put into somebody else's folder
    console.print("A photograph, explained by a network that knows ImageNet:")
    try:
        console.print(f"Picture: {demo_photograph(config.out)}", soft_wrap=True)
    except InputError as error:  # its weights are an extra; what follows needs none
        console.print(f"No picture: {error}", soft_wrap=True)
    console.print("\nThree ways to train on digits, with three seeds each:")
    _compare_and_tell(config, console)  # its report follows, with the search on the same page
    picture = demo_picture(config, load(config.data))
    console.print(f"Picture: {picture}", soft_wrap=True)
    console.print("\nA short search by learning by self-explanation:")
    search = demo_search(command.out)
    _search(search, console)
    console.print("\nBoth on one page:")
    _report_after(ReportConfig(dirs=(config.out, search.out)), console)
    console.print(f"Folder: {config.out.resolve()}", soft_wrap=True)


COMMANDS: dict[type, Callable[[Any, Console], object]] = {
    TrainConfig: _train,
    RetrainConfig: _train,
    FinetuneConfig: _finetune,
    CompareConfig: _compare,
    StudyKDConfig: _study,
    ExplainConfig: _explain,
    SearchesConfig: _one_or_more_searches,
    NASStudyConfig: _nas_study,
    LookupConfig: _look_up,
    ExportConfig: _export,
    ReportConfig: _report,
    TableConfig: _table,
    AppConfig: _app,
    PrintConfig: _print_config,
    DemoConfig: _demo,
}
"""Configuration of a subcommand -> what carries it out."""


Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[FinetuneConfig, tyro.conf.subcommand("finetune")]
    | Annotated[CompareConfig, tyro.conf.subcommand("compare")]
    | Annotated[StudyKDConfig, tyro.conf.subcommand("study-kd")]
    | Annotated[ExplainConfig, tyro.conf.subcommand("explain")]
    | Annotated[SearchesConfig, tyro.conf.subcommand("search")]
    | Annotated[NASStudyConfig, tyro.conf.subcommand("nas-study")]
    | Annotated[RetrainConfig, tyro.conf.subcommand("retrain")]
    | Annotated[LookupConfig, tyro.conf.subcommand("lookup")]
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
    | Annotated[ReportConfig, tyro.conf.subcommand("report")]
    | Annotated[TableConfig, tyro.conf.subcommand("table")]
    | Annotated[AppConfig, tyro.conf.subcommand("app")]
    | Annotated[PrintConfig, tyro.conf.subcommand("config")]
    | Annotated[DemoConfig, tyro.conf.subcommand("demo")]
)


TYPES: dict[str, type] = {
    annotated.__metadata__[0].name: get_args(annotated)[0] for annotated in get_args(Command)
}
"""Name of a subcommand -> its configuration."""
GROUPS = {
    "Train and compare": ("train", "finetune", "compare", "study-kd"),
    "Search for architectures": ("search", "nas-study", "retrain", "lookup"),
    "Look at what came of it": ("explain", "app", "report", "table", "export"),
    "Begin": ("demo", "config"),
}
"""Heading in the help -> subcommands."""
EXAMPLES = {
    "train": "selfexplain train --data digits --objective introspective --epochs 10",
    "finetune": "selfexplain finetune photos --epochs 5 --open",
    "compare": "selfexplain compare --data digits --objectives standard introspective "
    "--seeds 0 1 2 --epochs 10",
    "study-kd": "selfexplain study-kd --data digits --seeds 0 1 2",
    "explain": "selfexplain explain --run runs/one --images a.png b.png --out explained.png",
    "search": "selfexplain search --data digits --method lease --epochs 10",
    "nas-study": "selfexplain nas-study --data digits --methods darts2 lease random --budget 5 "
    "--retrain 5",
    "retrain": "selfexplain retrain --data digits --genotype runs/search/genotype.json",
    "lookup": "selfexplain lookup --table nasbench201.parquet --genotype runs/search/genotype.json",
    "export": "selfexplain export --run runs/one --out exported --formats onnx",
    "report": "selfexplain report runs/one runs/fashion",
    "table": "selfexplain table runs/fashion --format latex --figure forest.pdf",
    "app": "selfexplain app --run runs/one",
    "config": "selfexplain config train --objective kd > run.yaml",
    "demo": "selfexplain demo",
}
"""Subcommand -> how it is called."""


def parse(arguments: Sequence[str] | None = None) -> Command:
    """The options of a command line; nothing is run. Unknown words exit with code 2.

    Options from files (`--config`) come before those that were typed, so that the last count.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for word, before in zip(words, ["", *words], strict=False):
        if not word.partition("=")[2] and (word == "" or word.endswith("=")):
            raise InputError(
                f"{word.rstrip('=') or before or 'the command'} is followed by an empty string; "
                "pass a value, or leave it out"
            )
    _answer_help(words)
    if words and words[0].startswith(COMPLETION):
        _check_completion(words)
    elif words:
        _check_command(words)
        if words[0] == "config" and len(words) > 1:
            return _config_asked(words[1:])
        words = [words[0], *_options(words[0], words[1:])]
        check_required(words[0], TYPES[words[0]], words[1:])
    else:
        raise InputError(f"no command is given; pass one of {', '.join(TYPES)}, or --help")
    try:
        command: Command = tyro.cli(
            Command,
            prog="selfexplain",
            description=ABOUT,
            args=words,
            config=(tyro.conf.HelptextFromCommentsOff,),
        )
    except OptionError as error:  # named as it was typed
        field = error.field.rstrip("_")
        said = str(error).removeprefix(field)
        raise InputError(flag_of(error.owner, error.field) + said) from error
    return command


ABOUT = "Neural networks that learn by explaining themselves."


def _answer_help(words: Sequence[str]) -> None:
    """Print the page that was asked for, if any, and end."""
    if not {*HELP, HELP_ALL} & set(words):
        return
    if words[0] in (*HELP, HELP_ALL):
        groups = {title: {name: TYPES[name] for name in names} for title, names in GROUPS.items()}
        page = overview("selfexplain", ABOUT, groups, EXAMPLES)
    else:
        _check_command(words)
        name, *rest = words
        every = HELP_ALL in words
        page = command_page("selfexplain", name, TYPES[name], EXAMPLES[name], rest, every=every)
    print(page, end="")
    sys.exit(0)


COMPLETION = "--tyro-"
SHELLS = ("bash", "zsh", "fish", "tcsh")


def _check_completion(words: Sequence[str]) -> None:
    """Refuse what the parser's own options for completion would fail at."""
    known = {"--tyro-print-completion": 2, "--tyro-write-completion": 3}
    if known.get(words[0]) != len(words) or words[1] not in SHELLS:
        raise InputError(
            f"{words[0]} is not understood; pass --tyro-write-completion SHELL FILE, with one of "
            f"{', '.join(SHELLS)}"
        )


def _check_command(words: Sequence[str]) -> None:
    """Refuse a command that there is not."""
    if words[0] not in TYPES:
        what = "option" if is_flag(words[0]) else "command"
        raise InputError(
            f"there is no {what} {words[0]}{near(words[0], list(TYPES))}; selfexplain --help "
            "lists the commands"
        )


def _config_asked(words: Sequence[str]) -> PrintConfig:
    """What `selfexplain config COMMAND FLAGS` asks for."""
    _check_command(words)
    name, *flags = words
    return PrintConfig(command=name, flags=tuple(_options(name, flags)))


def _options(command: str, words: Sequence[str]) -> list[str]:
    """The words after a command, with those of its --config files before them; all are known."""
    config = TYPES[command]
    if any(word.partition("=")[0] == "--config" for word in words):
        from selfexplain.command_line.config_files import with_config

        words = with_config(command, config, words)
    check_known(command, config, words)
    check_values(command, config, words)
    return list(words)


def flag_of(owner: type, field: str) -> str:
    """The flag that sets a field of the options on the command line."""
    groups = {kind: f"{name}." for name, kind in hints_of(ObjectiveOptions).items()}
    annotations = getattr(hints_of(owner)[field], "__metadata__", ())
    if tyro.conf.Positional in annotations:  # typed without a flag
        return field.upper()
    given: list[str] = [name for a in annotations if (name := getattr(a, "name", None))]
    return "--" + (groups.get(owner, "") + (given or [field])[0]).replace("_", "-")


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
