"""What is told of a trial while a sweep runs."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Waiting:
    """The trial waits for its turn.

    Example:
        >>> Waiting()
        Waiting()
    """


@dataclass(frozen=True, slots=True)
class Started:
    """The trial has begun, or begun again.

    Example:
        >>> Started("process 4711").where
        'process 4711'
    """

    where: str
    pid: int | None = None
    """Of the process that runs it, on the machine where it does, if it has one of its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """So many steps of the trial are done, out of so many.

    Example:
        >>> Step(3, 10).total
        10
    """

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Done:
    """The trial has ended well.

    Example:
        >>> Done({"accuracy": 90.0}).result["accuracy"]
        90.0
    """

    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt at the trial has failed.

    Example:
        >>> Failed("its process was killed by signal 9", retry=True).retry
        True
    """

    reason: str
    """One line."""
    detail: str = ""
    """A traceback, for a trial that raised what nobody expects."""
    retry: bool = False
    """Whether it is tried again."""
    shortage: bool = False
    """Whether the machine was short of something, which others may have been using."""


Message = Waiting | Started | Step | Done | Failed
