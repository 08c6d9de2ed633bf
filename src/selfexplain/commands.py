"""What each subcommand does: run its recipe, then print and save what came of it.

Each imports its recipe itself, so that none waits for what another needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.app.serve import AppConfig, serve
from selfexplain.errors import first_line
from selfexplain.limits import check_options
from selfexplain.recipes.explain_options import ExplainConfig
from selfexplain.recipes.export_options import ExportConfig
from selfexplain.recipes.lookup_options import LookupConfig
from selfexplain.recipes.machines import first_process
from selfexplain.recipes.options import CompareConfig, RunConfig, TrainConfig
from selfexplain.recipes.report_options import ReportConfig
from selfexplain.recipes.retrain_options import RetrainConfig
from selfexplain.recipes.search_options import SearchConfig
from selfexplain.recipes.searches_options import SearchesConfig
from selfexplain.recipes.study_kd_options import StudyKDConfig
from selfexplain.records import escaped
from selfexplain.writing import atomic_file

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Train three ways on real images of digits, compare, draw explanations, and search a cell."""

    out: Path = Path("runs/demo")
    """Folder for the results."""

    def __post_init__(self) -> None:
        """Refuse a path that no file system has."""
        check_options(self)


def _train(config: RunConfig, console: Console) -> None:
    from selfexplain.recipes.train import run_training
    from selfexplain.report.progress import progress_bar

    with progress_bar(console, quiet=not first_process()) as advance:
        result = run_training(
            config, on_step=lambda done, total: advance(config.objective, config.seed, done, total)
        )
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


def _compare(config: CompareConfig, console: Console) -> None:
    _compare_and_tell(config, console)
    if first_process():
        _report_after(ReportConfig(dirs=(config.out,)), console)


def _compare_and_tell(config: CompareConfig, console: Console) -> None:
    from selfexplain.recipes.compare import run_comparison
    from selfexplain.report.sweep_table import sweep_progress
    from selfexplain.report.table import comparison_markdown, comparison_table

    with sweep_progress(console, epochs=config.training.epochs, quiet=not first_process()) as watch:
        results = run_comparison(config, watch)
    if first_process():
        from selfexplain.report.cost_plot import cost_figure  # what draws comes after refusals
        from selfexplain.report.picture import save_figure

        console.print(comparison_table(results))
        _write_text(config.out / "table.md", comparison_markdown(results))
        save_figure(cost_figure(results["summary"]), config.out / "accuracy-cost.png")
        console.print(f"Results: {config.out / 'results.json'}", soft_wrap=True)


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def _explain(config: ExplainConfig, console: Console) -> None:
    if config.evaluate:
        from selfexplain.recipes.evaluate_explanations import evaluate_explanations
        from selfexplain.report.progress import progress_bar
        from selfexplain.report.quality_table import quality_table

        with progress_bar(console) as advance:
            results = evaluate_explanations(
                config,
                lambda run, done, total: advance(run, config.quality.seed, done, total),
            )
        console.print(quality_table(results))
        console.print(f"Results: {config.results_file}", soft_wrap=True)
    else:
        from selfexplain.recipes.explain import explain_images
        from selfexplain.report.picture import save_figure

        assert config.out is not None, "the configuration asks for it"
        save_figure(explain_images(config), config.out)
        console.print(f"Picture: {config.out}", soft_wrap=True)


def _study(config: StudyKDConfig, console: Console) -> None:
    from selfexplain.recipes.study_kd import run_study
    from selfexplain.report.sweep_table import sweep_progress

    with sweep_progress(console, epochs=config.training.epochs, quiet=not first_process()) as watch:
        study = run_study(config, watch)
    if first_process():
        from selfexplain.report.picture import save_figure
        from selfexplain.report.study import study_figure, study_markdown, study_table

        console.print(study_table(study))
        _write_text(config.out / "table.md", study_markdown(study))
        save_figure(study_figure(study), config.out / "study.png")
        console.print(f"Picture: {config.out / 'study.png'}", soft_wrap=True)
        console.print(f"Results: {config.out / 'study.json'}", soft_wrap=True)
        _report_after(ReportConfig(dirs=(config.out,)), console)


def _report_after(config: ReportConfig, console: Console) -> None:
    """The report that follows a run by itself: what was computed stands, whatever becomes of it."""
    try:
        _report(config, console)
    except Exception as error:  # it draws what users name, and what earlier runs left
        folders = " ".join(map(str, config.dirs))
        console.print(
            f"Warning: there is no report ({escaped(first_line(error))}); the results are "
            f"complete, and selfexplain report {escaped(folders)} tries again",
            soft_wrap=True,
        )


def _report(config: ReportConfig, console: Console) -> None:
    config.check_folders()  # before what draws is imported
    from selfexplain.recipes.report import write_report

    console.print(f"Report: {write_report(config)}", soft_wrap=True)


def _export(config: ExportConfig, console: Console) -> None:
    from selfexplain.recipes.export import export_run

    for path in export_run(config):
        console.print(f"Written: {path}", soft_wrap=True)


def _look_up(config: LookupConfig, console: Console) -> None:
    from selfexplain.recipes.lookup import lookup_table, run_lookup

    console.print(lookup_table(config.genotype, run_lookup(config)))


def _one_or_more_searches(config: SearchesConfig, console: Console) -> None:
    if config.seeds:
        _searches(config, console)
    else:
        _search(config.each()[0], console)


def _search(config: SearchConfig, console: Console) -> None:
    from selfexplain.recipes.search import run_search
    from selfexplain.report.progress import progress_bar

    with progress_bar(console, quiet=not first_process()) as advance:
        result = run_search(
            config,
            on_step=lambda done, total: advance(
                f"{config.method} in {config.space}", config.seed, done, total
            ),
        )
    if first_process():
        _tell_of_search(config, result, console)


def _tell_of_search(config: SearchConfig, result: dict[str, Any], console: Console) -> None:
    from selfexplain.report.cell_text import cell_text
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


def _searches(config: SearchesConfig, console: Console) -> None:
    from selfexplain.recipes.searches import run_searches
    from selfexplain.report.searches_table import searches_table
    from selfexplain.report.sweep_table import sweep_progress

    with sweep_progress(console, epochs=config.epochs, quiet=not first_process()) as watch:
        results = run_searches(config, watch)
    console.print(searches_table(results))
    console.print(f"Results: {config.out / 'searches.json'}", soft_wrap=True)
    _report_after(ReportConfig(dirs=(config.out,)), console)


def _app(config: AppConfig, console: Console) -> None:
    del console  # the app prints its address once it is served
    serve(config)


def _demo(command: DemoConfig, console: Console) -> None:
    from selfexplain.recipes.demo import demo_config, demo_picture, demo_search
    from selfexplain.recipes.prepare import load

    config = demo_config(command.out)
    _compare_and_tell(config, console)  # its report follows, with the search on the same page
    picture = demo_picture(config, load(config.data))
    console.print(f"Picture: {picture}", soft_wrap=True)
    console.print("\nA short search by learning by self-explanation:")
    search = demo_search(command.out)
    _search(search, console)
    console.print("\nBoth on one page:")
    _report_after(ReportConfig(dirs=(config.out, search.out)), console)
    console.print(f"Folder: {config.out.resolve()}", soft_wrap=True)


COMMANDS: dict[type, Callable[[Any, Console], None]] = {
    TrainConfig: _train,
    RetrainConfig: _train,
    CompareConfig: _compare,
    StudyKDConfig: _study,
    ExplainConfig: _explain,
    SearchesConfig: _one_or_more_searches,
    LookupConfig: _look_up,
    ExportConfig: _export,
    ReportConfig: _report,
    AppConfig: _app,
    DemoConfig: _demo,
}
"""Configuration of a subcommand -> what carries it out."""
