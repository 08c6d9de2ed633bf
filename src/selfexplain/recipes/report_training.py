"""The sections of the report on trainings: on a run, a comparison, a study of distillation."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfexplain.recipes.objective_options import parts_of
from selfexplain.recipes.read_records import COMPARED, STUDY, TRAINED, read_comparison
from selfexplain.recipes.report_runs import album_epochs, read_album, read_record
from selfexplain.recipes.runs import run_folder
from selfexplain.records import printable
from selfexplain.report.html import Section, paragraph
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
from selfexplain.training.files import read_json


def run_sections(folder: Path) -> list[Section]:
    """The sections on one training.

    Example:
        >>> import tempfile
        >>> from selfexplain.recipes.options import DataOptions, TrainConfig
        >>> from selfexplain.recipes.train import run_training
        >>> from selfexplain.training import TrainingOptions
        >>> out = Path(tempfile.mkdtemp()) / "run"
        >>> training = TrainingOptions(epochs=1)
        >>> config = TrainConfig(data=DataOptions(data="digits"), training=training, out=out)
        >>> _ = run_training(config)
        >>> [section.title for section in run_sections(out)][:2]
        ['Results', 'Learning curves']
    """
    record = read_record(folder)
    run = printable(read_json(folder / "run.json", TRAINED))
    about = facts(run["config"], run.get("environment", {}))
    return [run_results(record, about), *_learned([record], [folder])]


def comparison_sections(folder: Path) -> list[Section]:
    """The sections on a comparison, finished or not.

    Example:
        >>> comparison_sections(Path("absent"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no file absent/compare.json; pass the ...
    """
    path = folder / "results.json"
    results = printable(read_comparison(path)) if path.exists() else None
    saved = folder / "compare.json"
    config = (
        read_json(saved, {"config": COMPARED})["config"] if results is None else results["config"]
    )
    folders = [
        run
        for objective in config["objectives"]
        for seed in config.get("seeds", [])
        if ((run := run_folder(folder, objective, seed)) / "run.json").exists()
    ]
    records = [read_record(run) for run in folders]
    if results is not None:
        first = [comparison_results(results), cost_section(results)]
    else:
        first = [_unfinished(config, records)]
    return [*first, *_learned(records, folders)]


def study_sections(folder: Path) -> list[Section]:
    """The sections on a study of distillation: its own, then those on the comparison it is.

    Example:
        >>> study_sections(Path("absent"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no file absent/study.json; pass the ...
    """
    return [
        study_results(printable(read_json(folder / "study.json", STUDY))),
        *comparison_sections(folder),
    ]


def _unfinished(config: dict[str, Any], records: Sequence[Record]) -> Section:
    wanted = len(config["objectives"]) * len(config.get("seeds", []))
    done = sum(record.result is not None for record in records)
    text = f"This comparison is not finished: {done} of {wanted} runs are. The same command goes on"
    return Section("Results", paragraph(f"{text}; then the table will stand here."))


def _learned(records: Sequence[Record], folders: Sequence[Path]) -> list[Section]:
    """The sections on what models learned."""
    order = sorted(range(len(records)), key=lambda i: _place(records[i]))
    return [
        curves_section(records),
        reliability_section(records),
        classes_section([records[i] for i in order]),
        _gallery(records, folders),
    ]


def _gallery(records: Sequence[Record], folders: Sequence[Path]) -> Section:
    """The gallery of the first introspective run that has an album, else of the last objective."""
    have = [i for i, folder in enumerate(folders) if album_epochs(folder)]
    if not have:
        return gallery_section(None)
    introspective = [i for i in have if _introspective(records[i])]
    introspective.sort(key=lambda i: _place(records[i]))
    objective = records[(introspective or have[::-1])[0]].objective
    chosen = next(i for i in have if records[i].objective == objective)
    others = len({record.objective for record in records}) > 1
    why = ", the first that learns by introspection" if introspective else ", the last compared"
    record = dataclasses.replace(records[chosen], album=read_album(folders[chosen]))
    return gallery_section(record, why if others else "")


def _place(record: Record) -> int:
    """Introspection comes first, then its controls, then what does not explain."""
    return 1 + (record.control != "none") if _introspective(record) else 3


def _introspective(record: Record) -> bool:
    return parts_of(record.objective)[-1].partition(":")[0] == "introspective"
