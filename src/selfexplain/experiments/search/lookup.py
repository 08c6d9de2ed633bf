"""Look up found cells in the table of NAS-Bench-201: how they rank among all others."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from selfexplain.errors import InputError
from selfexplain.experiments.search_options import LookupConfig
from selfexplain.files import write_record
from selfexplain.report.tables import plain_table, with_spread
from selfexplain.spaces.genotype_io import load_genotype
from selfexplain.spaces.table import Lookup, check_tabulated, load_table

HEADER = ("test %", "valid %", "seed std", "rank", "beats %", "params M")


def run_lookup(config: LookupConfig) -> list[Lookup]:
    """Look every genotype up, in the order given; write the results if there is a file for them.

    Raises:
        InputError: there is no genotype, or one of another family, or the table cannot be read or
            does not have a cell.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from selfexplain.spaces.table import BenchmarkTable, MeasuredCell, save_table
        >>> skips = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+" + "".join(
        ...     f"|skip_connect~{source}" for source in range(3)) + "|"
        >>> cell = MeasuredCell(arch=skips, seeds=3, validation=15.03, test=15.61,
        ...                     seed_std=0.09, params_m=0.073, flops_m=7.78)
        >>> path = Path(tempfile.mkdtemp()) / "table.parquet"
        >>> save_table(BenchmarkTable([cell]), path)
        >>> [found.test for found in run_lookup(LookupConfig(table=str(path), genotype=(skips,)))]
        [15.61]
    """
    if not config.genotype:
        raise InputError("genotype is empty; pass at least one")
    # The table last: it may take minutes, which a mistyped genotype should not cost.
    genotypes = [load_genotype(spec) for spec in config.genotype]
    for spec, genotype in zip(config.genotype, genotypes, strict=True):
        check_tabulated(genotype, spec[:80])
    table = load_table(config.table)
    found = [table.look_up(genotype) for genotype in genotypes]
    if config.out is not None:
        named = zip(config.genotype, found, strict=True)
        cells = [{"name": name, **asdict(lookup)} for name, lookup in named]
        write_record(config.out, {"schema": 1, "table": config.table, "cells": cells})
    return found


def lookup_table(names: Sequence[str], lookups: Sequence[Lookup]) -> Table:
    """A row for each cell and, of several, their mean and spread; 80 columns suffice."""
    table = plain_table(
        "CIFAR-100, trained as the benchmark does, mean over a cell's seeds; seed std: of "
        f"validation and test images together; rank among {lookups[0].cells} cells by test "
        "accuracy, 1 is best, = is shared; beats: share of the other cells that are worse",
        left=["cell"],
        right=HEADER,
    )
    for name, found in zip(names, lookups, strict=True):
        table.add_row(name, *_cells(found))
    if len(lookups) > 1:
        table.add_section()
        table.add_row("mean ± std", *_means(lookups))
    return table


def _cells(found: Lookup) -> tuple[str, ...]:
    return (
        f"{found.test:.2f}",
        f"{found.validation:.2f}",
        "" if found.seed_std is None else f"{found.seed_std:.2f}",
        f"{'=' if found.tied else ''}{found.rank}",
        f"{found.percentile:.1f}",
        f"{found.params_m:.3f}",
    )


def _means(lookups: Sequence[Lookup]) -> tuple[str, ...]:
    """The spread of what cells are compared by; of the rest the mean alone."""
    tests = [found.test for found in lookups]
    beats = [found.percentile for found in lookups]
    return (
        with_spread(statistics.mean(tests), statistics.stdev(tests), 2),
        f"{statistics.mean(found.validation for found in lookups):.2f}",
        "",
        f"{statistics.mean(found.rank for found in lookups):.0f}",
        with_spread(statistics.mean(beats), statistics.stdev(beats), 1),
        f"{statistics.mean(found.params_m for found in lookups):.3f}",
    )
