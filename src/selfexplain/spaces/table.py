"""Tables of a space: the accuracies that each of its cells reached in training.

Accuracies are top-1 per cent on CIFAR-100, means over the seeds of a cell. In this package lies the
table of tiny201, made by `studies/tiny_nas.py`; that of NAS-Bench-201 (200 epochs) is read from a
Parquet file or from `nats_bench`.
"""

import importlib
import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfexplain.errors import InputError, first_line, import_failure
from selfexplain.files import atomic_file
from selfexplain.spaces.genotype import Genotype
from selfexplain.spaces.genotype_io import to_string

COLUMNS = {
    "arch": "arch",
    "seeds": "n_seeds",
    "validation": "cifar100_valid",
    "test": "cifar100_test",
    "seed_std": "cifar100_valtest_sd",
    "params_m": "params_m",
    "flops_m": "flops_m",
}
"""Field of a cell -> column of the Parquet file."""

TABULATED = ("nasbench201", "tiny201")
"""Families whose cells a table may have."""

OWN = {"tiny201": Path(__file__).parent / "tiny201.parquet"}
"""Name -> a table that lies in this package."""

DIGITS = 4
"""Accuracies are counts of images over 10,000 or 15,000; what differs later is rounding alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredCell:
    """A cell of the space and what it reached.

    Attributes:
        arch: the cell as the benchmark writes it.
        seeds: how many times it was trained.
        validation: accuracy on the 5,000 validation images.
        test: accuracy on the 5,000 test images.
        seed_std: standard deviation over the seeds of the accuracy on both kinds of images
            together; None for a single seed.
        params_m: parameters, in millions.
        flops_m: multiply-adds of one image, in millions.
    """

    arch: str
    seeds: int
    validation: float
    test: float
    seed_std: float | None
    params_m: float
    flops_m: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookup(MeasuredCell):
    """A cell among all the others of its table, by test accuracy.

    Attributes:
        rank: 1 for the best; cells of the same accuracy share the best of their ranks.
        tied: how many other cells have the same accuracy.
        percentile: per cent of the other cells that are worse; ties are not worse.
        cells: how many cells the table has.
    """

    rank: int
    tied: int
    percentile: float
    cells: int


class BenchmarkTable:
    """Cells by their name, each there once, and their order by test accuracy."""

    def __init__(self, cells: Iterable[MeasuredCell]) -> None:
        listed = tuple(cells)
        self.cells = {cell.arch: cell for cell in listed}
        if not listed:
            raise InputError("the table has no cells; pass one with at least one cell")
        if len(self.cells) < len(listed):
            raise InputError("the table has a cell twice; pass one with each cell once")
        self._accuracies = sorted(round(cell.test, DIGITS) for cell in listed)

    def __len__(self) -> int:
        return len(self.cells)

    def look_up(self, cell: Genotype | str) -> Lookup:
        """What a cell, as genotype or benchmark string, reached, and its rank among all."""
        arch = cell.strip() if isinstance(cell, str) else _arch_string(cell)
        if arch not in self.cells:
            raise InputError(
                f"the table has no cell {arch!r}; pass one of its {len(self)} cells, written as "
                f"{next(iter(self.cells))}"
            )
        found, total = self.cells[arch], len(self)
        worse = bisect_left(self._accuracies, round(found.test, DIGITS))
        not_better = bisect_right(self._accuracies, round(found.test, DIGITS))
        return Lookup(
            **asdict(found),
            rank=total - not_better + 1,
            tied=not_better - worse - 1,
            percentile=100 * worse / max(1, total - 1),
            cells=total,
        )


def load_table(path: str | Path) -> BenchmarkTable:
    """Read a table.

    Args:
        path: `tiny201`, the table in this package; or a Parquet file with the columns that
            `save_table` writes; or `nats:FOLDER`, the
            unpacked topology archive of NATS-Bench (its name ends in -simple), read through the
            package `nats_bench`. That reads 15,625 files, which takes minutes: `save_table` keeps
            the result. The files are pickles, which can run code: take them from their authors.

    Raises:
        InputError: the file or folder is missing, or cannot be read, or columns are missing, or
            `nats_bench` is not installed.

    Example:
        >>> len(load_table("tiny201").cells)
        125
    """
    if str(path).startswith("nats:"):
        return BenchmarkTable(_read_nats(Path(str(path).removeprefix("nats:"))))
    return BenchmarkTable(_read_parquet(OWN.get(str(path), Path(path))))


def save_table(table: BenchmarkTable, path: Path) -> None:
    """Write a table to a Parquet file that `load_table` reads."""
    columns = {
        column: [getattr(cell, field) for cell in table.cells.values()]
        for field, column in COLUMNS.items()
    }
    content = BytesIO()
    pq.write_table(pa.table(columns), content)
    with atomic_file(path) as file:
        file.write(content.getvalue())


def check_tabulated(genotype: Genotype, name: str = "") -> None:
    """Raise InputError, which begins with a name, unless a table may have such cells."""
    if genotype.family not in TABULATED:
        raise InputError(
            f"{name and f'{name}: '}tables have cells of the families "
            f"{' and '.join(TABULATED)}, not of {genotype.family}; pass a genotype of one of them"
        )


def _arch_string(genotype: Genotype) -> str:
    check_tabulated(genotype)
    return to_string(genotype)


def _read_parquet(path: Path) -> Iterator[MeasuredCell]:
    if not path.is_file():
        raise InputError(
            f"there is no table {path}; pass {', '.join(OWN)}, a Parquet file or nats:FOLDER"
        )
    try:
        file = pq.ParquetFile(path)
        missing = [name for name in COLUMNS.values() if name not in file.schema_arrow.names]
        rows = [] if missing else file.read(columns=list(COLUMNS.values())).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet ({first_line(error)}); pass a Parquet file"
        ) from error
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; pass a table with the columns "
            f"{', '.join(COLUMNS.values())}"
        )
    for number, row in enumerate(rows):
        values = {field: row[column] for field, column in COLUMNS.items()}
        if not _is_number(values["seed_std"]):
            values["seed_std"] = None
        for field, value in values.items():
            if field != "seed_std" and not (field == "arch" or _is_number(value)):
                raise InputError(f"row {number} of {path} has no {COLUMNS[field]}; fill it in")
        yield MeasuredCell(**values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _read_nats(folder: Path) -> Iterator[MeasuredCell]:
    """Through the public interface of nats_bench, as of its version 1.8."""
    try:
        nats_bench: Any = importlib.import_module("nats_bench")
    except Exception as error:  # a package that is broken may raise anything
        install = "install it, or pass a Parquet file"
        raise import_failure(error, "nats:FOLDER", "nats_bench", install) from error
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}; pass nats:FOLDER, the unpacked NATS-tss archive"
        )
    try:
        api = nats_bench.create(str(folder), "tss", fast_mode=True, verbose=False)
        for index in range(len(api)):
            yield _nats_cell(api, index)
    except Exception as error:  # asserts, pickle's and the file system's, by what is damaged
        raise InputError(
            f"{folder} cannot be read by nats_bench ({first_line(error)}); "
            "pass the unpacked NATS-tss archive"
        ) from error


def _nats_cell(api: Any, index: int) -> MeasuredCell:
    place = {"dataset": "cifar100", "hp": "200"}
    mean = api.get_more_info(index, **place, is_random=False)
    results = api.query_meta_info_by_index(index, "200")
    costs, seeds = results.get_compute_costs("cifar100"), results.get_dataset_seeds("cifar100")
    single = [
        api.get_more_info(index, **place, is_random=seed)["valtest-accuracy"] for seed in seeds
    ]
    # It keeps every cell that it has read: all together they would fill the memory.
    api.arch2infos_dict.pop(index, None)
    return MeasuredCell(
        arch=api.arch(index),
        seeds=len(single),
        validation=mean["valid-accuracy"],
        test=mean["test-accuracy"],
        seed_std=statistics.stdev(single) if len(single) > 1 else None,
        params_m=costs["params"],
        flops_m=costs["flops"],
    )
