"""The report: one HTML file on what one or several folders hold."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from selfexplain.errors import InputError
from selfexplain.recipes.folder import saved_config
from selfexplain.recipes.partners import parts_of
from selfexplain.recipes.report_runs import read_album, read_record
from selfexplain.recipes.runs import run_folder
from selfexplain.report.html import Section, page, paragraph
from selfexplain.report.sections import (
    Record,
    classes_section,
    comparison_results,
    cost_section,
    curves_section,
    facts,
    gallery_section,
    reliability_section,
    run_results,
    study_results,
)
from selfexplain.training.files import atomic_file, read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Write one HTML file that shows what trainings, comparisons or studies left.

    It needs no other file and no network.
    """

    dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of compare, study-kd, train or retrain; finished or not."""
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
    names = [folder.resolve().name for folder in config.dirs]
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
            file.write(html.encode())
    except OSError as error:
        raise InputError(
            f"{config.file} cannot be written ({error.strerror}); pass another --out"
        ) from error
    return config.file


def sections_of(folder: Path) -> list[Section]:
    """The sections on a folder, by what it holds.

    Raises:
        InputError: there is no such folder, or it holds nothing to report on.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; pass folders of runs")
    for name, sections in KINDS:
        if (folder / name).exists():
            return sections(folder)
    names = ", ".join(name for name, _ in KINDS)
    raise InputError(f"{folder} holds none of {names}; pass the folder of a run or a comparison")


def run_sections(folder: Path) -> list[Section]:
    """The sections on one training."""
    record = read_record(folder)
    run = read_json(folder / "run.json")
    about = facts(run["config"], run.get("environment", {}))
    return [run_results(record, about), *_learned([record], [folder])]


def comparison_sections(folder: Path) -> list[Section]:
    """The sections on a comparison, finished or not."""
    path = folder / "results.json"
    results = _results(path) if path.exists() else None
    config = saved_config(folder / "compare.json") if results is None else results["config"]
    folders = [
        run
        for objective in config["objectives"]
        for seed in config["seeds"]
        if ((run := run_folder(folder, objective, seed)) / "run.json").exists()
    ]
    records = [read_record(run) for run in folders]
    if results is not None:
        first = [comparison_results(results), cost_section(results)]
    else:
        first = [_unfinished(config, records)]
    return [*first, *_learned(records, folders)]


def study_sections(folder: Path) -> list[Section]:
    """The sections on a study of distillation: its own, then those on the comparison it is."""
    return [study_results(read_json(folder / "study.json")), *comparison_sections(folder)]


KINDS: tuple[tuple[str, Callable[[Path], list[Section]]], ...] = (
    ("study.json", study_sections),
    ("results.json", comparison_sections),
    ("compare.json", comparison_sections),
    ("run.json", run_sections),
)
"""A file that a folder holds -> how it is reported on; the first that fits counts."""


def _results(path: Path) -> dict[str, Any]:
    results = read_json(path)
    if not results.get("summary") or "objectives" not in results.get("config", {}):
        raise InputError(f"{path} is not a comparison's; pass the folder of a comparison")
    return results


def _unfinished(config: dict[str, Any], records: Sequence[Record]) -> Section:
    wanted = len(config["objectives"]) * len(config["seeds"])
    done = sum(record.result is not None for record in records)
    text = f"This comparison is not finished: {done} of {wanted} runs are. The same command goes on"
    return Section("Results", paragraph(f"{text}; then the table will stand here."))


def _learned(records: Sequence[Record], folders: Sequence[Path]) -> list[Section]:
    """The sections on what models learned."""
    order = sorted(range(len(records)), key=lambda i: not _introspective(records[i]))
    return [
        curves_section(records),
        reliability_section(records),
        classes_section([records[i] for i in order]),
        _gallery(records, folders),
    ]


def _gallery(records: Sequence[Record], folders: Sequence[Path]) -> Section:
    """The gallery of the first introspective run that has an album, else of the last objective."""
    have = [i for i, folder in enumerate(folders) if any((folder / "album").glob("epoch-*"))]
    if not have:
        return gallery_section(None)
    introspective = [i for i in have if _introspective(records[i])]
    objective = records[(introspective or have[::-1])[0]].objective
    chosen = next(i for i in have if records[i].objective == objective)
    others = len({record.objective for record in records}) > 1
    why = ", the first that learns by introspection" if introspective else ", the last compared"
    record = dataclasses.replace(records[chosen], album=read_album(folders[chosen]))
    return gallery_section(record, why if others else "")


def _introspective(record: Record) -> bool:
    return parts_of(record.objective)[-1].partition(":")[0] == "introspective"
