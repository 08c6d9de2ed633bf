"""The interface of sweeps: trials go into a scheduler, an outcome comes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from selfexplain.errors import InputError
from selfexplain.sweeps.messages import Failed, Message

StepCallback = Callable[[int, int], None]
"""Called by a trial with the number of steps done, and of all its steps."""

Watch = Callable[[str, Message], None]
"""Called by a scheduler, in the process that started the sweep, with a trial's name and news."""


def ignore(name: str, message: Message) -> None:
    """Watch a sweep without looking.

    Example:
        >>> from selfexplain.sweeps import Waiting
        >>> ignore("a", Waiting())
    """
    del name, message


@dataclass(frozen=True, slots=True)
class Trial:
    """One of the independent runs of a sweep: `function(argument, on_step)` returns its result.

    The function must continue from where an earlier attempt came to, and have no effect but its
    result and its own files: a trial whose process dies is begun again. To run in another process,
    function and argument must be such as pickle takes: a function of an importable module.

    Example:
        >>> def double(number, on_step):
        ...     on_step(1, 1)
        ...     return 2 * number
        >>> Trial("six", double, 3).name
        'six'
    """

    name: str
    """Unlike that of all others of the sweep."""
    function: Callable[[Any, StepCallback], Any]
    argument: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a sweep's trials, by their names.

    Example:
        >>> Outcome({"six": 6}, {}).complete()
        {'six': 6}
    """

    results: dict[str, Any]
    failures: dict[str, Failed]

    def complete(self) -> dict[str, Any]:
        """The results, if every trial has one.

        Raises:
            InputError: some could not be run; it names the first of them.
            RuntimeError: one raised what nobody expects; its traceback is in the message.
        """
        for name, failed in self.failures.items():
            if failed.detail:
                raise RuntimeError(f"{name}: {failed.reason}\n\n{failed.detail}")
        for name, failed in self.failures.items():
            count, total = len(self.failures), len(self.failures) + len(self.results)
            said = f"{count} of {total} runs failed (what the others found is kept); "
            raise InputError(f"{said if total > 1 else ''}{name}: {failed.reason}")
        return self.results


class Scheduler(Protocol):
    """Carries out trials, each of them to its end once.

    Example:
        >>> from selfexplain.sweeps import InThisProcess
        >>> scheduler: Scheduler = InThisProcess()
        >>> scheduler.run([Trial("six", lambda number, on_step: 2 * number, 3)]).results
        {'six': 6}
    """

    @property
    def apart(self) -> bool:
        """Whether trials run in other processes than the one that asks for them."""

    def run(self, trials: Sequence[Trial], watch: Watch = ignore) -> Outcome:
        """Carry out all trials; a trial that fails does not keep the others from their end."""
