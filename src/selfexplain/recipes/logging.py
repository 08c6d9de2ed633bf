"""A run of a recipe, told to the loggers that its configuration names."""

from collections.abc import Iterator
from contextlib import contextmanager

from selfexplain.recipes.options import RunConfig, plain
from selfexplain.recipes.search_options import SearchConfig
from selfexplain.training.loggers import Logger, check_installed, opened


@contextmanager
def logged(config: RunConfig | SearchConfig, *, first: bool) -> Iterator[list[Logger]]:
    """The loggers of a run while it lasts, with its configuration as hyper-parameters.

    Args:
        config: of the run.
        first: whether this is the first of the run's processes; the others get no loggers.

    Raises:
        InputError: a logger is not installed, which every process finds, or cannot be opened.

    Example:
        >>> from selfexplain.recipes.options import DataOptions, TrainConfig
        >>> with logged(TrainConfig(data=DataOptions(data="digits")), first=True) as loggers:
        ...     loggers
        []
    """
    check_installed(config.loggers)
    hyperparameters = plain(config, leave_out=("out", "resume", "tensorboard"))
    with opened(config.loggers if first else (), config.out, hyperparameters) as loggers:
        yield loggers
