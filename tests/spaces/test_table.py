"""Look-ups in the benchmark's table: by the exact cell, ranks with ties, both kinds of source."""

import json
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfexplain.errors import InputError
from selfexplain.spaces import Cell, Edge, Genotype
from selfexplain.spaces.table import COLUMNS, BenchmarkTable, MeasuredCell, load_table, save_table

RESULTS = Path(__file__).parents[2] / "results"
GENOTYPE = Genotype(
    "nasbench201",
    {
        "cell": Cell(
            nodes=(
                (Edge("nor_conv_3x3", 0),),
                (Edge("none", 1), Edge("skip_connect", 0)),
                (Edge("avg_pool_3x3", 2), Edge("nor_conv_1x1", 0), Edge("none", 1)),
            ),
            concat=(3,),
        )
    },
)
ARCH = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"


def measured(arch: str, test: float, **values: float | None) -> MeasuredCell:
    usual = {"seeds": 3, "validation": 60.0, "seed_std": 0.25, "params_m": 0.5, "flops_m": 70.0}
    return MeasuredCell(arch=arch, test=test, **(usual | values))


def columns(**changes: list) -> dict[str, list]:
    cells = [measured(ARCH, 71.5), measured("other", 50.0)]
    made = {column: [getattr(cell, field) for cell in cells] for field, column in COLUMNS.items()}
    return made | changes


def test_genotype_is_found_by_its_exact_string() -> None:
    table = BenchmarkTable([measured("other", 50.0), measured(ARCH, 71.5, validation=70.5)])
    found = table.look_up(GENOTYPE)
    assert found == table.look_up(f" {ARCH}\n")
    assert (found.arch, found.test, found.validation, found.rank) == (ARCH, 71.5, 70.5, 1)
    assert (found.seeds, found.seed_std, found.params_m, found.flops_m) == (3, 0.25, 0.5, 70.0)


def test_ranks_share_the_best_place_and_ties_are_not_beaten() -> None:
    # The second 60 differs by the rounding of a mean alone.
    accuracies = {"a": 50.0, "b": 60.0, "c": 60.000000038, "d": 70.0, "e": 10.0}
    table = BenchmarkTable(measured(arch, test) for arch, test in accuracies.items())
    rows = [table.look_up(arch) for arch in accuracies]
    assert [row.rank for row in rows] == [4, 2, 2, 1, 5]
    assert [row.tied for row in rows] == [0, 1, 1, 0, 0]
    assert [row.percentile for row in rows] == [25, 50, 50, 100, 0]
    assert {row.cells for row in rows} == {5} == {len(table)}


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = BenchmarkTable([measured(ARCH, 71.5), measured("other", 50.0, seeds=1, seed_std=None)])
    save_table(table, tmp_path / "new" / "table.parquet")
    assert load_table(tmp_path / "new" / "table.parquet").cells == table.cells
    assert load_table(str(tmp_path / "new" / "table.parquet")).look_up("other").seed_std is None


def test_other_columns_and_orders_do_not_matter(tmp_path: Path) -> None:
    more = {"isomorph": [0, 1], **dict(reversed(columns().items())), "index": [5, 6]}
    pq.write_table(pa.table(more), tmp_path / "table.parquet")
    assert load_table(tmp_path / "table.parquet").look_up(ARCH).test == 71.5


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"arch": [ARCH]}, "has no column n_seeds, cifar100_valid, .* with the columns arch, "),
        (columns(cifar100_test=[71.5, None]), "row 1 of .* has no cifar100_test"),
        (columns(params_m=[float("nan"), 1.0]), "row 0 of .* has no params_m"),
        (columns(arch=[ARCH, ARCH]), "a cell twice"),
        ({name: values[:0] for name, values in columns().items()}, "has no cells"),
    ],
)
def test_file_of_something_else_is_refused(tmp_path: Path, table: dict, message: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    with pytest.raises(InputError, match=message):
        load_table(tmp_path / "table.parquet")


def test_no_file_and_no_parquet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no table .*missing\.parquet; pass"):
        load_table(tmp_path / "missing.parquet")
    with pytest.raises(InputError, match="there is no table"):
        load_table(tmp_path)
    (tmp_path / "text.parquet").write_text("arch,test")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        load_table(tmp_path / "text.parquet")
    with pytest.raises(InputError, match="cannot be written"):
        save_table(BenchmarkTable([measured(ARCH, 1.0)]), tmp_path / "text.parquet" / "table")


def test_what_the_table_does_not_have_is_refused() -> None:
    table = BenchmarkTable([measured("other", 50.0)])
    with pytest.raises(InputError, match=r"no cell '\|nor_conv_3x3~0\|.*pass one of its 1 cells"):
        table.look_up(GENOTYPE)
    pair = (Edge("skip_connect", 0), Edge("skip_connect", 1))
    cell = Cell(nodes=(pair,) * 4, concat=(2, 3, 4, 5))
    with pytest.raises(InputError, match="nasbench201 and tiny201, not of darts; pass"):
        table.look_up(Genotype("darts", {"normal": cell, "reduce": cell}))


RUNS = {ARCH: {777: (70.0, 71.0, 70.5), 999: (71.0, 72.0, 71.5)}, "other": {888: (9, 8, 7)}}
"""Cell -> seed -> accuracy on validation, test, and both kinds of images."""


class FakeApi:
    """The part of nats_bench's interface that is used; it refuses what the real one refuses."""

    def __init__(self) -> None:
        self.arch2infos_dict: dict[int, dict] = {}

    def __len__(self) -> int:
        return len(RUNS)

    def arch(self, index: int) -> str:
        return list(RUNS)[index]

    def _read(self, index: int) -> dict:
        return self.arch2infos_dict.setdefault(index, RUNS[self.arch(index)])

    def get_more_info(
        self, index: int, dataset: str, iepoch: None = None, hp: str = "12", is_random: int = True
    ) -> dict[str, float]:
        assert (dataset, iepoch, hp) == ("cifar100", None, "200")
        assert is_random is not True
        runs = self._read(index)
        chosen = list(runs.values()) if is_random is False else [runs[is_random]]
        names = ("valid-accuracy", "test-accuracy", "valtest-accuracy")
        return dict(zip(names, map(statistics.mean, zip(*chosen, strict=True)), strict=True))

    def query_meta_info_by_index(self, arch_index: int, hp: str = "12") -> SimpleNamespace:
        assert hp == "200"
        runs = self._read(arch_index)
        return SimpleNamespace(
            get_dataset_seeds=lambda dataset: list(runs),
            get_compute_costs=lambda dataset: {"flops": 70.0, "params": 0.5, "latency": 0.01},
        )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeApi]:
    """Put a module of the same interface in the place of nats_bench; the APIs that it made."""
    apis: list[FakeApi] = []

    def create(
        file_path_or_dict: str, search_space: str, fast_mode: bool, verbose: bool
    ) -> FakeApi:
        assert (search_space, fast_mode, verbose) == ("tss", True, False)
        if not (Path(file_path_or_dict) / "meta.pickle.pbz2").exists():
            raise FileNotFoundError("no meta.pickle.pbz2")
        apis.append(FakeApi())
        return apis[-1]

    monkeypatch.setitem(sys.modules, "nats_bench", SimpleNamespace(create=create))
    return apis


def test_nats_bench_gives_the_same_table(made: list[FakeApi], tmp_path: Path) -> None:
    (tmp_path / "meta.pickle.pbz2").touch()
    table = load_table(f"nats:{tmp_path}")
    std = statistics.stdev([70.5, 71.5])
    assert table.cells == {
        ARCH: measured(ARCH, 71.5, seeds=2, validation=70.5, seed_std=std),
        "other": measured("other", 8, seeds=1, validation=9, seed_std=None),
    }
    assert table.look_up(GENOTYPE).rank == 1
    assert made[0].arch2infos_dict == {}


def test_nats_bench_needs_its_folder(made: list[FakeApi], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*pass nats:FOLDER"):
        load_table(f"nats:{tmp_path / 'missing'}")
    with pytest.raises(InputError, match=r"by nats_bench \(no meta\.pickle\.pbz2\); pass"):
        load_table(f"nats:{tmp_path}")


def test_nats_bench_must_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "nats_bench", None)
    with pytest.raises(
        InputError, match="needs the package nats_bench, which is not installed; install it"
    ):
        load_table(f"nats:{tmp_path}")


def test_the_table_in_the_package_is_that_of_its_log() -> None:
    rows = [
        json.loads(line) for line in (RESULTS / "tiny-nas/trainings.jsonl").read_text().splitlines()
    ]
    table = load_table("tiny201")
    assert len(table) == 125
    assert len(rows) == 375
    for arch, cell in table.cells.items():
        own = [row for row in rows if row["arch"] == arch]
        assert sorted(row["seed"] for row in own) == [0, 1, 2]
        for name in ("validation", "test"):
            mean = statistics.fmean(row[name] for row in own)
            assert getattr(cell, name) == pytest.approx(mean, abs=1e-9)
