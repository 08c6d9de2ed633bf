"""Metrics of each epoch, as JSON lines and for the run's loggers."""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from selfexplain.errors import InputError
from selfexplain.files import atomic_file, cannot_write
from selfexplain.records import Whole, is_whole, misfit, parse_json, read_text, sealed, unsealed
from selfexplain.training.loggers import Logger, numbers

EPOCH = {"epoch": Whole(1, 10_000_000)}
"""What a line says in any case."""
_REMEDY = "delete the file to go on without what it says of the epochs so far"


class EpochLog:
    """One JSON object a line, one line an epoch; its numbers to the loggers.

    Args:
        folder: folder of the run.
        loggers: are given the numbers too.
        name: of the file.

    Example:
        >>> import tempfile
        >>> log = EpochLog(Path(tempfile.mkdtemp()))
        >>> log.write({"epoch": 1, "loss": 0.5}); log.read()
        [{'epoch': 1, 'loss': 0.5}]
    """

    def __init__(
        self, folder: Path, loggers: Sequence[Logger] = (), name: str = "metrics.jsonl"
    ) -> None:
        self.path = folder / name
        self._loggers = loggers

    def write(self, metrics: dict[str, Any]) -> None:
        """Append the metrics of one epoch; "epoch" counts from 1.

        Raises:
            WriteError: the line cannot be written; the lines before are kept.
        """
        try:
            # Here, so that whoever reads alone makes no folder.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _append(self.path, _line(metrics))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        for logger in self._loggers:
            logger.log(numbers(metrics), metrics["epoch"])

    def read(self, shape: Mapping[str, Any] = EPOCH) -> list[dict[str, Any]]:
        """All whole lines written so far; a last line cut off by a crash is left out.

        The digest that each line ends with is checked and left out; those of 0.1.0 have none.

        Args:
            shape: that a line must have, see `records`.

        Raises:
            InputError: a line before that is not the record of an epoch, or its epoch does not
                follow that of the line before. (The first may be any: whoever deletes the file and
                resumes the run begins there.)
        """
        if not self.path.exists():
            return []
        lines = read_text(self.path, _REMEDY, errors="replace").split("\n")
        if not _is_object(lines[-1]):
            lines.pop()
        records = [self._record(number, line, shape) for number, line in enumerate(lines, start=1)]
        for number, (before, record) in enumerate(pairwise(records), start=2):
            if record["epoch"] != before["epoch"] + 1:
                raise InputError(
                    f"line {number} of {self.path} is of epoch {record['epoch']}, and the line "
                    f"before of epoch {before['epoch']}: lines are missing, or there twice; put "
                    f"the file back as it was, or {_REMEDY}"
                )
        return records

    def _record(self, number: int, line: str, shape: Mapping[str, Any]) -> dict[str, Any]:
        try:
            record = parse_json(line, finite=False)  # a loss may be NaN
        except ValueError:
            record = None
        problem = misfit(record, shape)
        if not problem and not is_whole(record):
            problem = "what it says does not match the SHA-256 digest in it"
        if problem:
            raise InputError(
                f"line {number} of {self.path} is not the record of an epoch ({problem}); put "
                f"the file back as it was, or {_REMEDY}"
            )
        return unsealed(record)

    def cut_after(self, epoch: int) -> None:
        """Drop lines of epochs after this one: a resumed run writes them again."""
        kept = [line for line in self.read() if line["epoch"] <= epoch]
        with atomic_file(self.path) as file:
            file.write(b"".join(map(_line, kept)))


def _is_object(line: str) -> bool:
    """Whether a line that has no end holds an object all the same: a crash leaves less than one."""
    try:
        return isinstance(json.JSONDecoder().raw_decode(line)[0], dict)
    except (ValueError, RecursionError):
        return False


def _line(metrics: Mapping[str, Any]) -> bytes:
    return (json.dumps(sealed(metrics)) + "\n").encode()


def _append(path: Path, line: bytes) -> None:
    """Append a line as a whole, or leave the file as it was."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            written = 0
            while written < len(line):  # a disk that fills up takes a part
                written += file.write(line[written:])
            os.fsync(file.fileno())  # before the checkpoint, which says that this epoch is done
        except OSError:
            file.truncate(size)
            raise
