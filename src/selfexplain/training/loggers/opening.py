"""The loggers of a run, opened by name and closed whatever happens."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from selfexplain.errors import InputError, import_failure
from selfexplain.training.loggers.logger import Logger

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
