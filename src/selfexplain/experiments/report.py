"""The report: one HTML file on what one or several folders hold."""

import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from markupsafe import Markup

from selfexplain.errors import InputError
from selfexplain.experiments.data import image_files, read_images
from selfexplain.experiments.fit.given import load_given
from selfexplain.experiments.fit.recorder import Recorder
from selfexplain.experiments.fit.teacher import run_folder
from selfexplain.experiments.nas_study_options import search_folder
from selfexplain.experiments.read_records import (
    COMPARED,
    COMPARED_RUN,
    LOOKUPS,
    SEARCHES,
    STUDIED,
    STUDY,
    TRAINED,
    read_comparison,
    read_nas_study,
    read_search_lines,
    read_search_result,
    read_search_run,
)
from selfexplain.experiments.read_runs import read_record, read_snapshots, snapshot_epochs
from selfexplain.experiments.reading_options import ReportConfig
from selfexplain.files import atomic_file, read_json, read_shaped
from selfexplain.objectives.options import parts_of
from selfexplain.records import ListOf, misfit, printable
from selfexplain.report import disambiguate
from selfexplain.report.html import Head, Section, page
from selfexplain.report.publish import Block
from selfexplain.report.sections import (
    Record,
    classes_section,
    comparison_results,
    cost_section,
    curves_section,
    facts,
    gallery_section,
    photographs_section,
    plain_summary,
    reliability_section,
    run_results,
    study_results,
)
from selfexplain.report.sections.nas_study import (
    found_cells,
    nas_study_results,
    searches_of_study,
)
from selfexplain.report.sections.search import (
    lookups_table,
    search_parts,
    seeds_table,
)
from selfexplain.report.sections.search_record import Explained, SearchRecord, SearchSnapshots
from selfexplain.report.style import method_styles, series_of
from selfexplain.report.tables import unfinished
from selfexplain.report.verdicts import (
    Verdict,
    comparison_verdict,
    origin,
    search_verdict,
    searches_verdict,
    study_verdict,
    waiting_verdict,
)
from selfexplain.training.log import EpochLog

# The sections of the report on trainings: on a run, a comparison, a study of distillation.


def run_sections(folder: Path) -> list[Section]:
    """The sections on one training.

    Example:
        >>> import tempfile
        >>> from selfexplain.experiments.options import DataOptions, TrainConfig
        >>> from selfexplain.experiments.fit.train import run_training
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
    sections = [*_photographs([record]), run_results(record, about), *_learned([record], [folder])]
    return [dataclasses.replace(section, group="") for section in sections]


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
        first = [comparison_results(results, _block(results)), cost_section(results)]
    else:
        first = [_unfinished(config, records)]
    return [*first, *_photographs(records), *_learned(records, folders)]


def _block(results: Mapping[str, Any]) -> Block | None:
    """The runs of a comparison, one by one; None if they were not kept, or are not whole."""
    rows = results.get("rows", [])
    if misfit(rows, ListOf(COMPARED_RUN, least=1), "rows"):
        return None
    return Block(rows, notes=unfinished(results))


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
    text = f"This comparison is not finished: {done} of {wanted} runs are"
    return Section("Results", f"{text}. Repeat the command to continue; the table follows.")


def _photographs(records: Sequence[Record]) -> list[Section]:
    """What a run on photographs gets wrong, if one has kept it."""
    found = photographs_section(sorted(records, key=_place))
    return [] if found is None else [found]


def _learned(records: Sequence[Record], folders: Sequence[Path]) -> list[Section]:
    """The sections on what models learned."""
    return [
        curves_section(records),
        reliability_section(records),
        classes_section([records[i] for i in _most_telling(records)]),
        _gallery(records, folders),
    ]


def _gallery(records: Sequence[Record], folders: Sequence[Path]) -> Section:
    """The gallery of the first introspective run with snapshots, else of the last objective."""
    chosen = next((i for i in _most_telling(records) if snapshot_epochs(folders[i])), None)
    if chosen is None:
        return gallery_section(None)
    objective = records[chosen].objective
    others = len({record.objective for record in records}) > 1
    introspective = _introspective(records[chosen])
    why = ", the first that learns by introspection" if introspective else ", the last compared"
    record = dataclasses.replace(records[chosen], snapshots=read_snapshots(folders[chosen]))
    styles = method_styles([record.objective for record in records])
    series = series_of(styles[objective].colour)
    return gallery_section(record, why if others else "", series=series)


def _most_telling(records: Sequence[Record]) -> list[int]:
    """Places of the runs, those whose explanations one wants to see first: by introspection.

    Else those of the objective that was compared last, its first seed first.
    """
    objectives = list(dict.fromkeys(record.objective for record in records))

    def key(i: int) -> tuple[int, int]:
        turn = objectives.index(records[i].objective)
        return _place(records[i]), turn if _introspective(records[i]) else -turn

    return sorted(range(len(records)), key=key)


def _place(record: Record) -> int:
    """Introspection comes first, then its controls, then what does not explain."""
    return 1 + (record.control != "none") if _introspective(record) else 3


def _introspective(record: Record) -> bool:
    return parts_of(record.objective)[-1].partition(":")[0] == "introspective"


# The sections of a report on a search, or on the same search with several seeds.


def holds_search(folder: Path) -> bool:
    """Whether a folder is that of a search, or of searches with several seeds.

    Example:
        >>> holds_search(Path("absent"))
        False
    """
    if _holds_seeds(folder):
        return True
    path = folder / "run.json"
    return path.exists() and _is_search(path)


def search_sections(folder: Path) -> list[Section]:
    """What a page shows of a search: finished or not, of any version.

    Args:
        folder: of `selfexplain search`; with --seeds, a section for each seed follows the table of
            all. `lookup.json` in it (`selfexplain lookup --out`) is shown, too.

    Raises:
        InputError: the folder holds no search, or a file of it cannot be read.

    Example:
        >>> import tempfile
        >>> from selfexplain.experiments.options import DataOptions
        >>> from selfexplain.experiments.search.run import run_search
        >>> from selfexplain.experiments.search_options import SearchConfig
        >>> out = Path(tempfile.mkdtemp()) / "s"
        >>> _ = run_search(SearchConfig(data=DataOptions(data="digits"), method="random", out=out))
        >>> [section.title for section in search_sections(out)]
        ['Search', 'Cell']
    """
    if not holds_search(folder):
        raise InputError(f"{folder} contains no search; pass the folder of selfexplain search")
    if _holds_seeds(folder):
        return _sections_of_seeds(folder)
    return search_parts(read_search(folder), mark=_mark(folder))


def read_search(folder: Path) -> SearchRecord:
    """Read what one search left so far.

    Raises:
        InputError: a file of it cannot be read.

    Example:
        >>> read_search(Path("absent"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no file absent/run.json; pass the folder of a run
    """
    run = printable(read_search_run(folder / "run.json"))
    config, images = run["config"], run.get("images", {})
    history = read_search_lines(EpochLog(folder, name="search.jsonl"), config["space"])
    done = folder / "result.json"
    return SearchRecord(
        config=config,
        train_images=images.get("train"),
        history=tuple(printable(history)),
        result=printable(read_search_result(done)) if done.exists() else None,
        snapshots=_search_snapshots(folder / "album", images.get("class_names"), len(history)),
        lookups=_lookups(folder),
    )


def _is_search(run_json: Path) -> bool:
    config = read_json(run_json).get("config")
    return isinstance(config, dict) and {"space", "rates"} <= set(config)


def _holds_seeds(folder: Path) -> bool:
    return (folder / "searches.json").exists() or bool(_seeds(folder))


def _seeds(folder: Path) -> list[int]:
    """The seeds that a search has been begun with."""
    found = {path.parent.name[4:]: path for path in folder.glob("seed*/run.json")}
    return sorted(int(seed) for seed in found if seed.isdecimal() and _is_search(found[seed]))


def _sections_of_seeds(folder: Path) -> list[Section]:
    done, lookups = folder / "searches.json", _lookups(folder)
    body: Markup | str = "Not all of these searches are finished."
    if done.exists():
        body = seeds_table(printable(read_json(done, SEARCHES)))
    parts = (Section("Lookup", lookups_table(lookups)),) if lookups else ()
    seeds = [_section_of(folder, seed) for seed in _seeds(folder)]
    return [Section("Searches", body, parts), *seeds]


def _section_of(folder: Path, seed: int) -> Section:
    """All parts of one seed's search."""
    one = folder / f"seed{seed}"
    parts = search_parts(read_search(one), mark=_mark(one))
    return Section(f"Seed {seed}", parts=tuple(parts))


# The sections of a report on a study of search methods.


def nas_study_sections(folder: Path) -> list[Section]:
    """The sections on a study of searches, finished or not.

    Example:
        >>> nas_study_sections(Path("absent"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no file absent/nas-study.json; pass the ...
    """
    path = folder / "results.json"
    if not path.exists():
        config = read_json(folder / "nas-study.json", {"config": STUDIED})["config"]
        wanted = _searches_wanted(folder, config)
        done = sum((one / "result.json").exists() for one in wanted)
        text = f"This study is not finished: {done} of {len(wanted)} searches are"
        return [Section("Results", f"{text}. Repeat the command to continue; the table follows.")]
    results = printable(read_nas_study(path))
    return [nas_study_results(results), found_cells(results), searches_of_study(results)]


def _searches_wanted(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The folders of all searches of a study."""
    return [
        search_folder(folder, method, budget, seed)
        for method in config["methods"]
        for budget in config["budget"]
        for seed in config["seeds"]
    ]


def _mark(folder: Path) -> str:
    """Begins the ids of a search's drawings, in a page that may show several."""
    return f"cell-{crc32(str(folder).encode()):08x}"


def _search_snapshots(
    folder: Path, class_names: list[str] | None, epochs: int
) -> SearchSnapshots | None:
    """What was recorded of the logged epochs: a later one was cut off."""
    if not (folder / "images.safetensors").exists():
        return None
    path = folder / "images.safetensors"
    images = read_shaped(path, {"images": "uint8 BCHW", "labels": "int B"})
    sizes = dict(zip("BCHW", images["images"].shape, strict=True))
    found = {}
    for epoch in range(1, epochs + 1):
        path = folder / f"epoch-{epoch:04d}.safetensors"
        if path.exists():
            shapes = {"delta": "float BCHW", "explained": "float BCHW"}
            tensors = read_shaped(path, shapes, sizes)
            found[epoch] = Explained(
                delta_BCHW=tensors["delta"].numpy(), explained_BCHW=tensors["explained"].numpy()
            )
    names = class_names or []
    labels = [
        names[label] if 0 <= label < len(names) else str(label)
        for label in images["labels"].tolist()
    ]
    return SearchSnapshots(images_BCHW=images["images"].numpy(), labels=tuple(labels), epochs=found)


def _lookups(folder: Path) -> tuple[dict[str, Any], ...]:
    path = folder / "lookup.json"
    return tuple(printable(read_json(path, LOOKUPS)["cells"])) if path.exists() else ()


def write_report(config: ReportConfig) -> Path:
    """Write the report; return its path.

    Raises:
        InputError: a folder holds nothing to report on, or a file cannot be read or written.

    Example:
        >>> write_report(ReportConfig(dirs=(Path("absent"),)))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no folder absent; pass folders of runs
    """
    if not config.dirs:
        with tempfile.TemporaryDirectory() as place:
            run = scored_run(config, Path(place))
            return write_report(ReportConfig(dirs=(run,), out=config.out))
    chapters = [sections_of(folder) for folder in config.dirs]
    names = disambiguate([folder.resolve().name for folder in config.dirs])
    if len(chapters) > 1:
        chapters = [
            [
                dataclasses.replace(section, group=", ".join(filter(None, (name, section.group))))
                for section in chapter
            ]
            for name, chapter in zip(names, chapters, strict=True)
        ]
    html = page(
        f"Report on {', '.join(names)}",
        [section for chapter in chapters for section in chapter],
        heads=[head_of(folder, name) for folder, name in zip(config.dirs, names, strict=True)],
    )
    with atomic_file(config.file) as file:
        # Paths of data may hold bytes that are no UTF-8, and then stand in the page as escapes.
        file.write(html.encode(errors="backslashreplace"))
    return config.file


def scored_run(config: ReportConfig, place: Path) -> Path:
    """The folder, in this place, of a run in which a given model is scored on a folder of images.

    Raises:
        InputError: the model cannot be loaded, or the folders of images are not of its classes.
    """
    given, model = load_given(config)
    assert config.images is not None, "the options have been checked"
    if not config.images.is_dir():
        raise InputError(
            f"there is no folder {config.images}; pass one with a folder for each class"
        )
    names = config.class_names or _folders_of(config.images, given.num_classes)
    paths = image_files([config.images])
    classes = {name: k for k, name in enumerate(names)}
    strange = [p for p in paths if p.relative_to(config.images).parts[0] not in classes]
    if strange:
        raise InputError(
            f"{strange[0]} does not lie in a folder of one of the {len(names)} classes "
            f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}); pass --images with such "
            "folders, and --class-names in the order of the model"
        )
    labels_N = torch.tensor([classes[p.relative_to(config.images).parts[0]] for p in paths])
    folder = place / re.sub(r"[:/\\]", "-", str(config.model))
    with Recorder(
        folder,
        model,
        data=(read_images(paths, given.shape_CHW, given.ranges), labels_N),
        objective="given_weights",
        factory=config.model,
        class_names=names,
        mean=given.mean_C.tolist(),
        std=given.std_C.tolist(),
    ) as recorder:
        recorder.epoch()  # of which there are pictures
    return folder


def _folders_of(images: Path, classes: int) -> tuple[str, ...]:
    """The names of as many folders as there are classes."""
    names = sorted(p.name for p in images.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) != classes:
        raise InputError(
            f"{images} has {len(names)} folders, and the model {classes} classes; pass a folder "
            "for each class, or --class-names in the order of the model"
        )
    return tuple(names)


# What stands first: the verdict, and where it comes from.


def head_of(folder: Path, name: str) -> Head:
    """The verdict on a folder in words; its command, date, commit and images.

    Args:
        folder: of a run, a comparison, a study or a search.
        name: how the page calls it.

    Raises:
        InputError: a file of it cannot be read.

    Example:
        >>> head_of(Path("absent"), "mine").verdict
        'There is nothing to report on'
    """
    kind = _kind_of(folder)
    if kind is None:
        return Head(name, "There is nothing to report on")
    verdict = VERDICTS[kind](folder)
    return Head(name, verdict.line, verdict.detail, tuple(_origin(folder).items()))


def _verdict_on_run(folder: Path) -> Verdict:
    record = read_record(folder)
    if record.result is None:
        planned = read_json(folder / "run.json", TRAINED)["config"].get("training", {})
        epochs = max((int(line["epoch"]) for line in record.metrics), default=0)
        return waiting_verdict(epochs, planned.get("epochs", epochs), "epochs")
    line = plain_summary(record) or f"Accuracy {record.result['accuracy']:.2f} %"
    return Verdict(line.removesuffix("."), f"{record.name}, the model of the last epoch.")


def _verdict_on_comparison(folder: Path) -> Verdict:
    path = folder / "results.json"
    if path.exists():
        return comparison_verdict(printable(read_comparison(path)))
    config = read_json(folder / "compare.json", {"config": COMPARED})["config"]
    wanted = [
        run_folder(folder, objective, seed)
        for objective in config["objectives"]
        for seed in config.get("seeds", [])
    ]
    done = sum((run / "result.json").exists() for run in wanted)
    return waiting_verdict(done, len(wanted))


def _verdict_on_study(folder: Path) -> Verdict:
    return study_verdict(printable(read_json(folder / "study.json", STUDY)))


def _verdict_on_search(folder: Path) -> Verdict:
    if _holds_seeds(folder):
        done = folder / "searches.json"
        return searches_verdict(printable(read_json(done, SEARCHES)) if done.exists() else None)
    record = read_search(folder)
    return search_verdict(record.result, len(record.history), record.planned_epochs)


def _verdict_on_nas_study(folder: Path) -> Verdict:
    path = folder / "results.json"
    if not path.exists():
        config = read_json(folder / "nas-study.json", {"config": STUDIED})["config"]
        wanted = _searches_wanted(folder, config)
        done = sum((one / "result.json").exists() for one in wanted)
        return waiting_verdict(done, len(wanted), "searches")
    sentence = printable(read_nas_study(path))["sentence"].removesuffix(".")
    return Verdict(sentence, "Search methods over the same seeds: what they found.")


def _origin(folder: Path) -> dict[str, str]:
    """Where what a folder holds comes from, as far as that was recorded."""
    first = next((folder / name for name in SAVED if (folder / name).exists()), None)
    if first is None:
        return {}
    runs = [*sorted(folder.glob("runs/*/run.json")), *sorted(folder.glob("*/run.json"))]
    saved = [printable(read_json(path)) for path in (first, *runs[:1])]
    configs = [each["config"] for each in saved if isinstance(each.get("config"), dict)]
    data = [config["data"].get("data", "") for config in configs if "data" in config]
    return origin(
        _first_of(each.get("environment") for each in (*saved, *configs)),
        str(next(iter(data), "")),
        _first_of(each.get("images") for each in saved),
    )


def _first_of(found: Iterable[Any]) -> dict[str, Any]:
    """The first that is an object with something in it."""
    return next((each for each in found if isinstance(each, dict) and each), {})


SAVED = ("compare.json", "nas-study.json", "run.json", "results.json", "searches.json")
"""Files that say how a folder was made; the first that there is counts."""


def sections_of(folder: Path) -> list[Section]:
    """The sections on a folder, by what it holds.

    Raises:
        InputError: there is no such folder, or it holds nothing to report on.

    Example:
        >>> import tempfile
        >>> sections_of(Path(tempfile.mkdtemp()))
        Traceback (most recent call last):
        selfexplain.errors.InputError: ... contains no run and no comparison; pass the folder of one
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; pass folders of runs")
    sections = _kind_of(folder)
    if sections is None:
        raise InputError(f"{folder} contains no run and no comparison; pass the folder of one")
    return sections(folder)


def _kind_of(folder: Path) -> Callable[[Path], list[Section]] | None:
    """What reports on a folder."""
    return next((sections for holds, sections in KINDS if holds(folder)), None)


def _holds(name: str) -> Callable[[Path], bool]:
    return lambda folder: (folder / name).exists()


KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path], list[Section]]], ...] = (
    (_holds("nas-study.json"), nas_study_sections),
    (holds_search, search_sections),
    (_holds("study.json"), study_sections),
    (_holds("results.json"), comparison_sections),
    (_holds("compare.json"), comparison_sections),
    (_holds("run.json"), run_sections),
)
"""Whether a folder is of a kind -> how it is reported on; the first that fits counts."""


VERDICTS: dict[Callable[[Path], list[Section]], Callable[[Path], Verdict]] = {
    nas_study_sections: _verdict_on_nas_study,
    search_sections: _verdict_on_search,
    study_sections: _verdict_on_study,
    comparison_sections: _verdict_on_comparison,
    run_sections: _verdict_on_run,
}
"""What reports on a folder -> what says the verdict on it."""
