"""Metrics of each epoch: as JSON lines in the run's folder, and for its loggers."""

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

from selfexplain.errors import InputError, import_failure
from selfexplain.files import atomic_file, cannot_write, is_whole, sealed, unsealed
from selfexplain.records import Whole, misfit, parse_json, read_text


class Logger(Protocol):
    """Takes the numbers of each epoch, then the final scores.

    Lightning's loggers are not used: they need the whole of Lightning's Trainer, that of Weights &
    Biases takes over a run that is already open in the process, and neither ends its run.

    Example:
        >>> class Printer:
        ...     def log(self, numbers, epoch): print(epoch, numbers)
        ...     def finish(self, scores): print("final", scores)
        ...     def close(self, *, failed): pass
        >>> logger: Logger = Printer()
        >>> logger.log({"loss": 0.5}, epoch=1)
        1 {'loss': 0.5}
    """

    def log(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Take the numbers of one epoch, counted from 1."""

    def finish(self, scores: Mapping[str, float]) -> None:
        """Take the final scores, once."""

    def close(self, *, failed: bool) -> None:
        """End the run, as one that failed or one that is done."""


def flat(values: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Nested dictionaries as one, with joined names.

    Example:
        >>> flat({"data": {"data": "digits"}, "seed": 0})
        {'data.data': 'digits', 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}{separator}", separator)
        else:
            found[f"{prefix}{key}"] = value
    return found


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among nested values; texts and lists are left to the run's own files.

    Example:
        >>> numbers({"epoch": 1, "losses": {"audience": 0.5, "explainer": None}, "genotype": "|.."})
        {'epoch': 1.0, 'losses/audience': 0.5}
    """
    return {
        name: float(value)
        for name, value in flat(values, separator="/").items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def as_text(value: Any) -> str:
    """One value of a configuration as a text; lists as JSON.

    Example:
        >>> as_text(["standard"]), as_text(0.1), as_text("digits")
        ('["standard"]', '0.1', 'digits')
    """
    return value if isinstance(value, str) else json.dumps(value)


# The loggers of a run, opened by name and closed whatever happens.


LoggerName = Literal["tensorboard", "wandb", "mlflow"]


def check_installed(names: Sequence[LoggerName]) -> None:
    """Raise InputError that names the extra of the first logger that is not installed.

    Example:
        >>> check_installed(())
    """
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name here is no package
            raise InputError(f"the logger {name} needs the package {name}; {_instead(name)}")


def _instead(name: str) -> str:
    return f"install it with: pip install 'selfexplain[{name}]', or leave it out of --loggers"


@contextmanager
def opened(
    names: Sequence[LoggerName], folder: Path, hyperparameters: Mapping[str, Any]
) -> Iterator[list[Logger]]:
    """Open loggers; at the end close them, as failed if an exception passes.

    A run that is opened again in its folder continues what it logged before.

    Args:
        names: of the loggers; for processes other than the first, none.
        folder: of the run; each logger keeps what it has on this disk in a folder of its own there.
        hyperparameters: configuration of the run, nested, as JSON has it.

    Raises:
        InputError: a logger is not installed, or cannot reach where the user told it to log.

    Example:
        >>> with opened((), Path("absent"), {"seed": 0}) as loggers:
        ...     loggers
        []
    """
    check_installed(names)
    with ExitStack() as stack:
        yield [stack.enter_context(_closing(n, folder, hyperparameters)) for n in names]


@contextmanager
def _closing(
    name: LoggerName, folder: Path, hyperparameters: Mapping[str, Any]
) -> Iterator[Logger]:
    logger = _open(name, folder, hyperparameters)
    try:
        yield logger
    except BaseException:
        with suppress(InputError, OSError):  # what went wrong first is what is told
            logger.close(failed=True)
        raise
    logger.close(failed=False)


def _open(name: LoggerName, folder: Path, hyperparameters: Mapping[str, Any]) -> Logger:
    """Open a logger, whose library is imported only now."""
    try:
        kind = _class_of(name)
    except Exception as error:  # a package that is broken may raise anything
        packages = f"{name} sqlalchemy" if name == "mlflow" else name
        raise import_failure(error, f"the logger {name}", packages, _instead(name)) from error
    return kind(folder, hyperparameters)


def _class_of(name: LoggerName) -> Callable[[Path, Mapping[str, Any]], Logger]:
    match name:
        case "tensorboard":
            from selfexplain.training.loggers.tensorboard import TensorBoard

            return TensorBoard
        case "wandb":
            from selfexplain.training.loggers.wandb import WeightsAndBiases

            return WeightsAndBiases
        case "mlflow":
            from selfexplain.training.loggers.mlflow import MLflow

            return MLflow


# The id that a run has elsewhere, kept in its folder for when it is continued.


def run_id(path: Path, hyperparameters: Mapping[str, Any], new: Callable[[], str]) -> str:
    """The id kept in a file for this configuration; if there is none, a new one, kept from now on.

    A start that failed before its first checkpoint leaves its folder to any other configuration,
    whose numbers must not go to the run with the old hyper-parameters.

    Args:
        path: of the file: the id in its first line, a digest of the hyper-parameters in its second.
        hyperparameters: configuration of the run, nested.
        new: makes an id.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run-id"
        >>> run_id(path, {"seed": 0}, lambda: "a"), run_id(path, {"seed": 0}, lambda: "b")
        ('a', 'a')
        >>> run_id(path, {"seed": 1}, lambda: "c")
        'c'
    """
    text = json.dumps(hyperparameters, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if path.exists():
        run_id, _, of = path.read_text().partition("\n")
        if of == digest:
            return run_id
    run_id = new()
    with atomic_file(path) as file:
        file.write(f"{run_id}\n{digest}".encode())
    return run_id


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
            # Here, so that reading alone makes no folder.
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
