"""The loggers of a run, opened by name and closed whatever happens."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from selfexplain.errors import InputError
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
            raise InputError(
                f"the logger {name} needs the package {name}; install it with: "
                f"pip install 'selfexplain[{name}]', or leave it out of --loggers"
            )


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
    match name:
        case "tensorboard":
            from selfexplain.training.loggers.tensorboard import TensorBoard

            return TensorBoard(folder, hyperparameters)
        case "wandb":
            from selfexplain.training.loggers.wandb import WeightsAndBiases

            return WeightsAndBiases(folder, hyperparameters)
        case "mlflow":
            from selfexplain.training.loggers.mlflow import MLflow

            return MLflow(folder, hyperparameters)
