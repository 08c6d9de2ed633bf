"""The report: one HTML file on what one or several folders hold."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from selfexplain.errors import InputError
from selfexplain.recipes.report_search import holds_search, search_sections
from selfexplain.recipes.report_training import comparison_sections, run_sections, study_sections
from selfexplain.report import told_apart
from selfexplain.report.html import Section, page
from selfexplain.training.files import atomic_file


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Write one HTML file that shows what trainings, comparisons, studies or searches left.

    It needs no other file and no network.
    """

    dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of compare, study-kd, search, train or retrain; finished or not."""
    out: Path | None = None
    """File to write; report.html in the first folder by default."""

    def __post_init__(self) -> None:
        """Refuse no folder, a folder twice, and a folder to write to."""
        if not self.dirs:
            raise InputError("no folder is given; pass at least one, such as runs/demo")
        if len(set(self.dirs)) < len(self.dirs):
            raise InputError("a folder is named twice; pass each once")
        if self.out is not None and self.out.is_dir():
            raise InputError(f"out is {self.out}, a folder; pass a file that ends in .html")

    @property
    def file(self) -> Path:
        """Where the report is written."""
        return self.dirs[0] / "report.html" if self.out is None else self.out


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
    try:
        with atomic_file(config.file) as file:
            # Paths of data may hold bytes that are no UTF-8, and then stand in the page as escapes.
            file.write(html.encode(errors="backslashreplace"))
    except OSError as error:
        raise InputError(
            f"{config.file} cannot be written ({error.strerror}); pass another --out"
        ) from error
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
