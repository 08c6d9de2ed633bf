"""The table and the forest plot of whatever folders hold: comparisons, runs, studies of searches.

What a comparison says of itself is in `results.json`. Runs without one, such as those of an
unfinished comparison or of several commands, are put together from their own `result.json`; they
may lie in the archive of a study, `logs.tar.gz`, from which nothing else is read.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from selfexplain.errors import InputError, first_line
from selfexplain.experiments.read_records import (
    COMPARED,
    COMPARED_RUN,
    RESULT,
    read_comparison,
    read_nas_study,
)
from selfexplain.files import read_json
from selfexplain.records import ListOf, Text, Whole, printable
from selfexplain.report.forest import forest_figure
from selfexplain.report.publish import (
    Block,
    Cell,
    Grid,
    check_columns,
    render,
    table,
)
from selfexplain.report.style import disambiguate
from selfexplain.report.tables import unfinished

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from selfexplain.experiments.reading_options import TableConfig

ARCHIVE = "logs.tar.gz"
KEPT = {"run.json", "result.json", "compare.json", "results.json", "nas-study.json"}
"""What is read from an archive."""
LARGEST = 2**28
"""Bytes of a file in an archive that is read."""
NOT_OF_A_GROUP = ("objective", "seed", "start_seed", "options", "teacher", "tensorboard")
"""Options in which runs that are compared may differ."""


def write_table(config: TableConfig) -> str:
    """The text of the table that the options ask for.

    Raises:
        InputError: a folder holds nothing for a table, or a column does not exist.

    Example:
        >>> from selfexplain.experiments.reading_options import TableConfig
        >>> write_table(TableConfig(dirs=(Path("absent"),)))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no folder absent; pass folders of comparisons ...
    """
    studies = [folder for folder in config.dirs if (folder / "nas-study.json").exists()]
    if len(studies) == len(config.dirs):
        grids = [_study_grid(folder) for folder in studies]
        return "\n".join(render(_picked(grid, config.columns), config.format) for grid in grids)
    check_columns(config.columns)  # before anything is read
    return table(blocks_of(config.dirs), config.format, config.columns, config.spread)


def table_figure(config: TableConfig) -> Figure:
    """The forest plot that the options ask for.

    Raises:
        InputError: as `write_table`; or there is nothing to compare.
    """
    studies = [folder for folder in config.dirs if (folder / "nas-study.json").exists()]
    if len(studies) == len(config.dirs):
        if config.score != "accuracy":
            raise InputError("a study of searches has accuracies alone; pass --score accuracy")
        return forest_figure([block for folder in studies for block in _study_blocks(folder)])
    return forest_figure(blocks_of(config.dirs), config.score)


def blocks_of(folders: Sequence[Path]) -> list[Block]:
    """The comparisons that folders hold, each folder's in the order of their names.

    Runs that are named one by one, and differ in nothing but objective and seed, are one.

    Raises:
        InputError: a folder holds none, or a file of it cannot be read.
    """
    blocks: list[Block] = []
    single: list[Path] = []
    for folder in folders:
        with _with_archive(folder) as place:
            if _is_run(place):
                if place == folder:
                    single.append(folder)
                else:  # of an archive, and gone in a moment
                    blocks += _of_runs([place], "")
                continue
            found = _blocks_in(place, folder)
            if not found:
                raise InputError(
                    f"{folder} contains no comparison and no finished run; pass folders of "
                    "compare, of train, or of several of these"
                )
            blocks += found
    blocks += _of_runs(single, "")
    titles = disambiguate([block.title for block in blocks])
    return [replace(block, title=title) for block, title in zip(blocks, titles, strict=True)]


def _blocks_in(place: Path, named: Path) -> list[Block]:
    """The comparisons of a folder, or of those directly in it; `named` is what it is called."""
    if (place / "nas-study.json").exists():
        raise InputError(
            f"{named} holds a study of searches, and another folder does not; make a table of each"
        )
    name = named.resolve().name
    own = _of_comparison(place, name)
    if own:
        return own
    inside = sorted(path for path in place.iterdir() if path.is_dir())
    found = [block for path in inside for block in _of_comparison(path, path.name)]
    return found or _of_runs([path for path in inside if _is_run(path)], name)


def _of_comparison(folder: Path, title: str) -> list[Block]:
    """What a folder of `compare` says, or, without its results, what its finished runs do."""
    path = folder / "results.json"
    if (folder / "nas-study.json").exists() or not (path.exists() or (folder / "runs").is_dir()):
        return []
    if path.exists():
        results = printable(read_comparison(path))
        rows = printable(read_json(path, {"rows": ListOf(COMPARED_RUN, least=1)})["rows"])
        return [Block(rows, title, unfinished(results))]
    runs = sorted(path for path in (folder / "runs").iterdir() if _is_run(path))
    if not (folder / "compare.json").exists():
        return _of_runs(runs, title)
    config = printable(read_json(folder / "compare.json", {"config": COMPARED})["config"])
    wanted = [f"{o} with seed {s}" for s in config.get("seeds", ()) for o in config["objectives"]]
    rows = [row for path in runs for row in [_row(path)]]
    there = {f"{row['objective']} with seed {row['seed']}" for row in rows}
    missing = [each for each in wanted if each not in there]
    order = {objective: place for place, objective in enumerate(config["objectives"])}
    rows = [row for row in rows if row["objective"] in order]
    rows.sort(key=lambda row: (order[row["objective"]], row["seed"]))
    if not rows:
        return []
    return [Block(rows, title, unfinished({"config": {"unfinished": missing}}))]


def _is_run(folder: Path) -> bool:
    """Whether a folder holds a finished training."""
    return all((folder / name).exists() for name in ("run.json", "result.json")) and (
        "objective" in read_json(folder / "result.json")
    )


def _of_runs(folders: Sequence[Path], title: str) -> list[Block]:
    """Runs, those that differ in nothing but objective and seed together."""
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        config = read_json(folder / "run.json", {"config": {}})["config"]
        shared = {k: v for k, v in config.items() if k not in NOT_OF_A_GROUP}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(folder)
    return [
        Block(_rows(members), title if len(groups) == 1 and title else _about(json.loads(shared)))
        for shared, members in groups.items()
    ]


def _rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each run; standard training, where there is any, first."""
    rows = {}
    for folder in folders:
        row = _row(folder)
        key = (row["objective"] != "standard", row["objective"], row["seed"])
        if key in rows:
            raise InputError(
                f"two runs are of {row['objective']} with seed {row['seed']}, one of them in "
                f"{folder}; pass one of them"
            )
        rows[key] = row
    return [rows[key] for key in sorted(rows)]


def _row(folder: Path) -> dict[str, Any]:
    shape = {**RESULT, "objective": Text(), "seed": Whole()}
    found: dict[str, Any] = printable(read_json(folder / "result.json", shape))
    return found


def _about(config: dict[str, Any]) -> str:
    """Model, data and epochs of runs, as a title."""
    parts = [str(config.get("model", "the network of a genotype"))]
    if isinstance(data := config.get("data"), dict):
        parts.append(f"on {data.get('data')}")
    if isinstance(training := config.get("training"), dict):
        parts.append(f"{training.get('epochs')} epochs")
    return str(printable(" ".join(parts[:2]) + "".join(f", {part}" for part in parts[2:])))


# Runs in the archive of a study.


@contextmanager
def _with_archive(folder: Path) -> Iterator[Path]:
    """A folder, or, where it has no results, what of it lies in the archive of a study.

    The archive is in the folder itself or in one above.
    """
    archive = next(
        (p / ARCHIVE for p in (folder, *folder.parents) if (p / ARCHIVE).is_file()), None
    )
    if folder.is_dir() and (archive is None or _has_results(folder)):
        yield folder
        return
    if archive is None:
        raise InputError(f"there is no folder {folder}; pass folders of comparisons or runs")
    with tempfile.TemporaryDirectory() as place:
        _unpack(archive, Path(place))
        inside = Path(place) / folder.relative_to(archive.parent)
        if not inside.is_dir():
            raise InputError(f"neither is there a folder {folder}, nor does {archive} hold one")
        yield inside


def _has_results(folder: Path) -> bool:
    """Whether a folder, or one directly in it, has results of its own."""
    names = ("results.json", "result.json")
    return any(True for name in names for at in (name, f"*/{name}") for _ in folder.glob(at))


def _unpack(archive: Path, place: Path) -> None:
    """Put the records of an archive into a folder."""
    try:
        with tarfile.open(archive) as tar:
            wanted = [
                entry
                for entry in tar
                if entry.isfile()
                and PurePosixPath(entry.name).name in KEPT
                and entry.size <= LARGEST
            ]
            tar.extractall(place, members=wanted, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{archive} cannot be read ({first_line(error)})") from error


# The table of a study of searches, which says itself what was proven.


def _study_grid(folder: Path) -> Grid:
    from selfexplain.report.nas_study import nas_study_caption, nas_study_cells

    results = _study_results(folder)
    header, rows = nas_study_cells(results)
    cells = [[Cell(text) for text in row] for row in rows]
    return Grid(header, [("", cells)], f"{results['sentence']} {nas_study_caption(results)}")


def _study_blocks(folder: Path) -> list[Block]:
    """The accuracies of a study's methods, a block for each kind and number of epochs."""
    results = _study_results(folder)
    kinds = {"in the table": results["rows"], "retrained": results["retrained"]}
    blocks = []
    for words, rows in kinds.items():
        key = "accuracy" if words == "retrained" else "table"
        for budget in dict.fromkeys(row["budget"] for row in rows if key in row):
            found = [
                {"objective": row["method"], "seed": row["seed"], "accuracy": row[key]}
                for row in rows
                if row["budget"] == budget and key in row
            ]
            title = f"{folder.resolve().name}: {words}, {budget} epoch{'s' * (budget > 1)}"
            blocks.append(Block(found, title))
    return blocks


def _study_results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    if not path.exists():
        raise InputError(f"the study in {folder} is not finished; repeat its command")
    results: dict[str, Any] = printable(read_nas_study(path))
    return results


def _picked(grid: Grid, columns: Sequence[str]) -> Grid:
    """A grid with some of its columns after the first."""
    if not columns:
        return grid
    check_columns(columns, list(dict.fromkeys(grid.header[1:])))
    places = [0, *(place for name in columns for place, h in enumerate(grid.header) if h == name)]
    rows = [[cells[place] for place in places] for _, rows in grid.groups for cells in rows]
    return Grid([grid.header[place] for place in places], [("", rows)], grid.caption)
