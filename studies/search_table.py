"""Many searches side by side: what their cells reach in the table of NAS-Bench-201.

    python -m studies.search_table --runs DIR --table FILE --out TABLE.md

looks up the cell of every finished search in DIR, groups them by name without "-seedN", and writes
a Markdown table and, beside it, the same as JSON.
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from selfexplain.errors import InputError, exit_on_bad_input
from selfexplain.experiments.read_records import read_search_result
from selfexplain.files import atomic_file, write_json
from selfexplain.report.tables import with_spread
from selfexplain.spaces.table import BenchmarkTable, load_table


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    """Look up the cells of many searches."""

    runs: Path
    """Folder with a folder for each search, named METHOD-seedN."""
    table: str
    """The benchmark, as for lookup."""
    out: Path
    """Markdown file to write."""


def searched_cells(runs: Path, table: BenchmarkTable) -> dict[str, list[dict[str, Any]]]:
    """Method -> for each seed: the search's result with what its cell reaches.

    Raises:
        InputError: there is no finished search, or a cell is not in the table.
    """
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(runs.glob("*/result.json")):
        name, result = path.parent.name, read_search_result(path)
        cell = table.look_up(result["genotype"])
        found[re.sub(r"-seed\d+$", "", name)].append(
            {**result, "test": cell.test, "rank": cell.rank, "percentile": cell.percentile}
        )
    if not found:
        raise InputError(f"{runs} holds no finished search; pass the folder that holds them")
    return dict(found)


def markdown(cells: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row for each method: means and standard deviations over its seeds.

    Example:
        >>> seed = {"test": 70.0, "percentile": 95.0, "skips": 1, "collapsed": False}
        >>> print(markdown({"lease": [seed, seed]}).splitlines()[-1])
        | lease | 2 | 70.00 ± 0.00 | 95.0 ± 0.0 | 1.0 | 0 |  |
    """
    lines = [
        "| search | seeds | test % of its cells | beats % of all | skips | collapsed | "
        "search's own validation % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, seeds in cells.items():
        columns = (
            name,
            str(len(seeds)),
            _spread([seed["test"] for seed in seeds], 2),
            _spread([seed["percentile"] for seed in seeds], 1),
            f"{statistics.mean(seed['skips'] for seed in seeds):.1f}",
            str(sum(seed["collapsed"] for seed in seeds)),
            _spread([s["validation_accuracy"] for s in seeds if "validation_accuracy" in s], 2),
        )
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def whole_space(table: BenchmarkTable) -> str:
    """One more row of the table: the mean and spread of all cells, which a random one has.

    Example:
        >>> from selfexplain.spaces.table import MeasuredCell
        >>> cells = [MeasuredCell(arch=arch, seeds=2, validation=0.0, test=test, seed_std=None,
        ...                       params_m=0.1, flops_m=1.0) for arch, test in (("a", 1), ("b", 3))]
        >>> print(whole_space(BenchmarkTable(cells)), end="")
        | *all 2 cells* |  | 2.00 ± 1.41 | 50.0 |  |  |  |
    """
    tests = [cell.test for cell in table.cells.values()]
    return f"| *all {len(tests)} cells* |  | {_spread(tests, 2)} | 50.0 |  |  |  |\n"


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return with_spread(statistics.mean(values), statistics.stdev(values), digits)


def main() -> None:
    """Write the table of a command line."""
    config = tyro.cli(TableConfig, config=(tyro.conf.HelptextFromCommentsOff,))
    table = load_table(config.table)
    cells = searched_cells(config.runs, table)
    with atomic_file(config.out) as file:
        file.write((markdown(cells) + whole_space(table)).encode())
    write_json(config.out.with_suffix(".json"), {"schema": 1, "searches": cells})
    print(f"written: {config.out}")


if __name__ == "__main__":
    with exit_on_bad_input("search_table"):
        main()
