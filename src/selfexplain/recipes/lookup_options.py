"""The options of lookup."""

from dataclasses import dataclass
from pathlib import Path

from selfexplain.limits import check_options


@dataclass(frozen=True, kw_only=True, slots=True)
class LookupConfig:
    """Look up what cells of NAS-Bench-201 reach on CIFAR-100."""

    table: str
    """The benchmark: a Parquet file, or nats:FOLDER to read NATS-Bench with nats_bench."""
    genotype: tuple[str, ...]
    """Genotype files, or cells as the benchmark writes them: |op~0|+|op~0|op~1|+..."""
    out: Path | None = None
    """JSON file for the results; None for none. As lookup.json in a search's folder it becomes part
    of the search's report."""

    def __post_init__(self) -> None:
        """Refuse paths that no file system has."""
        check_options(self)
