"""The report: one HTML file on what one or several folders hold."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from selfexplain.errors import InputError
from selfexplain.recipes.report_options import ReportConfig
from selfexplain.recipes.report_search import holds_search, search_sections
from selfexplain.recipes.report_training import comparison_sections, run_sections, study_sections
from selfexplain.report import told_apart
from selfexplain.report.html import Section, page
from selfexplain.writing import atomic_file


def write_report(config: ReportConfig) -> Path:
    """Write the report; return its path.

    Raises:
        InputError: a folder holds nothing to report on, or a file cannot be read or written.

    Example:
        >>> write_report(ReportConfig(dirs=(Path("absent"),)))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no folder absent; pass folders of runs
    """
    chapters = [sections_of(folder) for folder in config.dirs]
    names = told_apart([folder.resolve().name for folder in config.dirs])
    if len(chapters) > 1:
        chapters = [
            [dataclasses.replace(section, title=f"{name}: {section.title}") for section in chapter]
            for name, chapter in zip(names, chapters, strict=True)
        ]
    html = page(
        f"Report on {', '.join(names)}",
        [section for chapter in chapters for section in chapter],
        summary="What the models learned, and what they taught themselves by explaining.",
    )
    with atomic_file(config.file) as file:
        # Paths of data may hold bytes that are no UTF-8, and then stand in the page as escapes.
        file.write(html.encode(errors="backslashreplace"))
    return config.file


def sections_of(folder: Path) -> list[Section]:
    """The sections on a folder, by what it holds.

    Raises:
        InputError: there is no such folder, or it holds nothing to report on.

    Example:
        >>> import tempfile
        >>> sections_of(Path(tempfile.mkdtemp()))
        Traceback (most recent call last):
        selfexplain.errors.InputError: ... holds no run and no comparison; pass the folder of one
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; pass folders of runs")
    for holds, sections in KINDS:
        if holds(folder):
            return sections(folder)
    raise InputError(f"{folder} holds no run and no comparison; pass the folder of one")


def _holds(name: str) -> Callable[[Path], bool]:
    return lambda folder: (folder / name).exists()


KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path], list[Section]]], ...] = (
    (holds_search, search_sections),
    (_holds("study.json"), study_sections),
    (_holds("results.json"), comparison_sections),
    (_holds("compare.json"), comparison_sections),
    (_holds("run.json"), run_sections),
)
"""Whether a folder is of a kind -> how it is reported on; the first that fits counts."""
