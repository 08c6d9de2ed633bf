"""How the runs of a grid are spread over processes and machines."""

from dataclasses import dataclass

from selfexplain.errors import InputError
from selfexplain.sweeps import InThisProcess, LocalWorkers, Scheduler


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """Where the runs of a grid happen; it changes none of their results.

    Example:
        >>> SweepOptions(workers=2).workers
        2
    """

    workers: int = 1
    """Runs at a time, each in a process of its own; 1 runs them one after another in this one."""

    def __post_init__(self) -> None:
        """Refuse less than one worker."""
        if self.workers < 1:
            raise InputError(f"workers is {self.workers}; pass a whole number of at least 1")

    @property
    def apart(self) -> bool:
        """Whether runs have processes of their own."""
        return self.workers > 1


def scheduler_of(options: SweepOptions) -> Scheduler:
    """The scheduler that the options ask for.

    Example:
        >>> scheduler_of(SweepOptions()).apart
        False
    """
    if options.apart:
        return LocalWorkers(options.workers)
    return InThisProcess()
