"""From genotypes, as files or strings, to a table that fits a terminal."""

import io
import statistics
from pathlib import Path

import pytest
import tyro
from rich.console import Console

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments.search.lookup import LookupConfig, lookup_table, run_lookup
from selfexplain.spaces.table import BenchmarkTable, Lookup, MeasuredCell, save_table

GOOD = "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|nor_conv_3x3~1|avg_pool_3x3~2|"
POOR = "|skip_connect~0|+|skip_connect~0|none~1|+|skip_connect~0|skip_connect~1|none~2|"


@pytest.fixture
def table(tmp_path: Path) -> str:
    rows = [(GOOD, 72.5, 0.3), (POOR, 15.5, None), ("other", 15.5, 0.1), ("best", 73.5, 0.3)]
    cells = [
        MeasuredCell(
            arch=arch,
            seeds=1 if std is None else 3,
            validation=test - 0.25,
            test=test,
            seed_std=std,
            params_m=1.0,
            flops_m=80.0,
        )
        for arch, test, std in rows
    ]
    save_table(BenchmarkTable(cells), tmp_path / "table.parquet")
    return str(tmp_path / "table.parquet")


def printed(names: list[str], lookups: list[Lookup]) -> str:
    file = io.StringIO()
    Console(file=file, width=80).print(lookup_table(names, lookups))
    assert max(len(line) for line in file.getvalue().splitlines()) <= 80
    return file.getvalue()


def test_cells_are_looked_up_in_the_order_given(table: str) -> None:
    found = run_lookup(LookupConfig(table=table, genotype=(POOR, GOOD)))
    assert [(row.arch, row.rank) for row in found] == [(POOR, 3), (GOOD, 2)]


def test_several_cells_are_summed_up(table: str) -> None:
    found = run_lookup(LookupConfig(table=table, genotype=(GOOD, POOR)))
    text = printed(["runs/a/rather/long/path/to/a/genotype.json", "b"], found)
    mean, std = statistics.mean([72.5, 15.5]), statistics.stdev([72.5, 15.5])
    beats = statistics.stdev([200 / 3, 0])
    for part in (f"{mean:.2f} ± {std:.2f}", f"33.3 ± {beats:.1f}", "=3", "among 4 cells"):
        assert part in text


def test_one_cell_has_no_spread(table: str) -> None:
    found = run_lookup(LookupConfig(table=table, genotype=(GOOD,)))
    text = printed(["genotype.json"], found)
    assert "±" not in text
    for part in ("genotype.json", "72.50", "72.25", "0.30", "66.7", "1.000"):
        assert part in text


def test_genotypes_are_read_before_the_table() -> None:
    with pytest.raises(InputError, match="genotype is empty"):
        run_lookup(LookupConfig(table="missing.parquet", genotype=()))
    with pytest.raises(InputError) as raised:
        run_lookup(LookupConfig(table="missing.parquet", genotype=("no such thing",)))
    assert "missing.parquet" not in str(raised.value)


def test_cells_of_another_family_are_refused(table: str) -> None:
    with pytest.raises(InputError, match="nasbench201"):
        run_lookup(LookupConfig(table=table, genotype=("published:DARTS_V2",)))


def test_command_line_takes_several() -> None:
    config = tyro.cli(LookupConfig, args=["--table", "nats:folder", "--genotype", "a", "b"])
    assert config == LookupConfig(table="nats:folder", genotype=("a", "b"))


def test_the_command_prints_the_table(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["lookup", "--table", table, "--genotype", GOOD])
    assert "72.50" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["lookup", "--table", "absent.parquet", "--genotype", GOOD])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("selfexplain: ")
