"""The raw logs of a study in one file, so that `results/` shows tables, figures and commands.

    python -m studies.archive pack results/lease     # logs.tar.gz, anew from the folders of runs
    python -m studies.archive unpack results/lease   # the folders, where the study left them

What a folder of runs holds already is not overwritten when it is unpacked. The same files make the
same archive, byte for byte.
"""

import gzip
import io
import sys
import tarfile
from pathlib import Path

ARCHIVE = "logs.tar.gz"
FOLDERS_OF_RUNS = ("runs", "searches", "retrained", "teachers", "select", "test", "gpu")
"""Names of the folders, at any depth of a study, that hold nothing but runs."""
SUFFIXES = {".json", ".jsonl", ".log", ".png", ".svg"}
"""What is kept of a run: neither weights nor predictions, which the seeds make again."""


def raw_logs(study: Path) -> list[Path]:
    """The files of a study that belong into its archive, relative to it, sorted."""
    files = [path.relative_to(study) for path in study.rglob("*") if path.is_file()]
    raw = [
        file
        for file in files
        if file.suffix in SUFFIXES and not {*file.parts[:-1]}.isdisjoint(FOLDERS_OF_RUNS)
    ]
    return sorted(raw, key=Path.as_posix)


def pack(study: Path) -> None:
    """Write a study's archive from its folders of runs: names sorted, all times 0."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in raw_logs(study):
            data = (study / name).read_bytes()
            entry = tarfile.TarInfo(name.as_posix())  # of nobody, of the year 1970
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    (study / ARCHIVE).write_bytes(gzip.compress(content.getvalue(), compresslevel=9, mtime=0))


def unpack(study: Path) -> None:
    """Put the files of a study's archive where they came from; none that exists is overwritten."""
    if not (study / ARCHIVE).exists():
        return
    with tarfile.open(study / ARCHIVE) as tar:
        missing = [entry for entry in tar if not (study / entry.name).exists()]
        tar.extractall(study, members=missing, filter="data")


def read_logs(study: Path) -> dict[str, bytes]:
    """Name of each file in a study's archive, relative to the study -> its content."""
    with tarfile.open(study / ARCHIVE) as tar:
        return {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry))}


if __name__ == "__main__":
    {"pack": pack, "unpack": unpack}[sys.argv[1]](Path(sys.argv[2]))
