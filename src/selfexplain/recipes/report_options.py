"""The options of report."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from selfexplain.errors import InputError
from selfexplain.limits import OptionError, check_options

_RECORDS = (
    "run.json",
    "compare.json",
    "results.json",
    "study.json",
    "searches.json",
    "seed*/run.json",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Write one HTML file that shows what trainings, comparisons, studies or searches left.

    It needs no other file and no network.
    """

    dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of compare, study-kd, search, train or retrain; finished or not."""
    out: Path | None = None
    """File to write; report.html in the first folder by default."""

    def __post_init__(self) -> None:
        """Refuse no folder, a folder twice, and a folder to write to."""
        check_options(self)
        if not self.dirs:
            raise InputError("no folder is given; pass at least one, such as runs/demo")
        if len(set(self.dirs)) < len(self.dirs):
            raise InputError("a folder is named twice; pass each once")
        for folder in self.dirs:
            if not folder.is_dir():
                raise InputError(f"there is no folder {folder}; pass folders of runs")
        if self.out is not None and self.out.is_dir():
            said = f"out is {self.out}, a folder; pass a file that ends in .html"
            raise OptionError(said, ReportConfig, "out")

    def check_folders(self) -> None:
        """Raise InputError for a folder without any of the files by which a report knows its kind.

        Example:
            >>> ReportConfig(dirs=(Path(),)).check_folders()
            Traceback (most recent call last):
            selfexplain.errors.InputError: . holds no run and no comparison; pass the folder of one
        """
        for folder in self.dirs:
            if not any(path for pattern in _RECORDS for path in folder.glob(pattern)):
                raise InputError(f"{folder} holds no run and no comparison; pass the folder of one")

    @property
    def file(self) -> Path:
        """Where the report is written."""
        return self.dirs[0] / "report.html" if self.out is None else self.out
