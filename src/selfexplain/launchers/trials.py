"""Trials, their messages, their queue, and the scheduler that runs them serially."""

import os
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from selfexplain.errors import (
    BrokenOffError,
    InputError,
    OutOfMemoryError,
    WriteError,
    first_line,
)
from selfexplain.files import no_room_said

# Messages about a trial while a sweep runs.


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
class StepsDone:
    """This many steps of the trial are done, out of a total.

    Example:
        >>> StepsDone(3, 10).total
        10
    """

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Done:
    """The trial has succeeded.

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
    oom: bool = False
    """Whether the machine was short of something, which others may have been using."""
    breaks_off: bool = False
    """Whether the other trials would end in the same, as on a full disk."""


Message = Waiting | Started | StepsDone | Done | Failed


# The interface of sweeps: trials go into a scheduler, an outcome comes out.


StepCallback = Callable[[int, int], None]
"""Called by a trial with the number of steps done, and of all its steps."""

Watch = Callable[[str, Message], None]
"""Called by a scheduler, in the process that started the sweep, with a trial's name and news."""


def ignore(name: str, message: Message) -> None:
    """Watch a sweep and do nothing.

    Example:
        >>> from selfexplain.launchers import Waiting
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
    """Results and failures of a sweep's trials, by name.

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
            said = f"{count} of {total} runs failed (the results of the others are kept); "
            raise InputError(f"{said if total > 1 else ''}{name}: {failed.reason}")
        return self.results


class Scheduler(Protocol):
    """Runs trials, each to its end once.

    Example:
        >>> from selfexplain.launchers import Serial
        >>> scheduler: Scheduler = Serial()
        >>> scheduler.run([Trial("six", lambda number, on_step: 2 * number, 3)]).results
        {'six': 6}
    """

    @property
    def isolated(self) -> bool:
        """Whether trials run in other processes than the one that asks for them."""

    def run(self, trials: Sequence[Trial], watch: Watch = ignore) -> Outcome:
        """Carry out all trials; a trial that fails does not keep the others from their end.

        Raises:
            WriteError: a file of a trial cannot be written, as on a full disk: all are broken off.
        """


# One attempt at a trial, in the process that was given it.


SECONDS_BETWEEN_STEPS = 0.25
"""Steps are told of no more often than this."""


def attempt(trial: Trial, send: Callable[[Message], None], where: str = "") -> None:
    """Run a trial, and send news of it; the last is `Done` or `Failed`.

    Args:
        trial: to be run.
        send: gets the messages.
        where: what to call this process.

    Example:
        >>> sent = []
        >>> attempt(Trial("six", lambda number, on_step: 2 * number, 3), sent.append)
        >>> sent[-1]
        Done(result=6)
    """
    send(Started(where or f"process {os.getpid()}", os.getpid()))
    try:
        with no_room_said():
            result = trial.function(trial.argument, sparing(send))
    except OutOfMemoryError as error:
        send(Failed(str(error), retry=True, oom=True))
    except WriteError as error:
        error.kept = None  # the caller says what of all trials is kept
        send(Failed(str(error), breaks_off=True))
    except InputError as error:
        send(Failed(str(error)))
    except Exception as error:
        told = f"{type(error).__name__}: {first_line(error)}"
        send(Failed(told, detail=traceback.format_exc(), retry=True))
    else:
        send(Done(result))


def sparing(send: Callable[[Message], None]) -> StepCallback:
    """A callback that sends the first step, the last, and in between one from time to time."""
    last = -float("inf")

    def on_step(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= SECONDS_BETWEEN_STEPS:
            last = now
            send(StepsDone(done, total))

    return on_step


# The state of a sweep: which trials wait, which are retried, and their outcomes.


class TrialQueue:
    """Tracks the trials of a sweep, and passes on the news.

    Args:
        trials: all of them.
        retries: how often a trial whose attempt failed by accident is tried again.
        watch: is told everything.

    Raises:
        ValueError: two trials have one name.

    Example:
        >>> from selfexplain.launchers.trials import ignore
        >>> queue = TrialQueue([Trial("a", print, None)], retries=1, watch=ignore)
        >>> trial = queue.next()
        >>> queue.take(trial, Failed("killed", retry=True)); queue.next().name
        'a'
        >>> queue.take(trial, Failed("killed", retry=True)); queue.finished
        True
    """

    def __init__(self, trials: Sequence[Trial], retries: int, watch: Watch) -> None:
        twice = [name for name, count in Counter(t.name for t in trials).items() if count > 1]
        if twice:
            raise ValueError(f"two trials are called {twice[0]}")
        self.waiting = deque(trials)
        self.retries, self.watch = retries, watch
        self.outcome = Outcome({}, {})
        self._failed_attempts: Counter[str] = Counter()
        self._open = len(trials)
        for trial in trials:
            watch(trial.name, Waiting())

    @property
    def finished(self) -> bool:
        """Whether every trial has come to its end."""
        return self._open == 0

    def next(self) -> Trial | None:
        """Hand out a trial that waits, if there is one."""
        return self.waiting.popleft() if self.waiting else None

    def take(self, trial: Trial, message: Message, *, counts: bool = True) -> None:
        """Take note of news of a trial that was handed out.

        Args:
            trial: that was handed out.
            message: the news.
            counts: whether a failed attempt is one of those that a trial has.

        Raises:
            WriteError: a file could not be written, which ends the sweep.
        """
        match message:
            case Done():
                self.outcome.results[trial.name] = message.result
                self._open -= 1
            case Failed():
                self._failed_attempts[trial.name] += counts
                again = message.retry and self._failed_attempts[trial.name] <= self.retries
                message = replace(message, retry=again)
                if again:
                    self.waiting.appendleft(trial)  # it has a checkpoint, the others have nothing
                else:
                    self.outcome.failures[trial.name] = message
                    self._open -= 1
        self.watch(trial.name, message)
        if isinstance(message, Failed) and message.breaks_off:
            raise WriteError(message.reason)


class Serial:
    """Runs trials one after another where they are asked for.

    Bad input fails a trial and the next begins; any other exception, and what would break off the
    others too (a full disk), ends the sweep, as it would end a run by itself.

    Example:
        >>> trials = [Trial(str(n), lambda n, on_step: n * n, n) for n in (2, 3)]
        >>> Serial().run(trials).complete()
        {'2': 4, '3': 9}
    """

    isolated = False

    def run(self, trials: Sequence[Trial], watch: Watch = ignore) -> Outcome:
        """Carry out all trials, in order."""
        queue = TrialQueue(trials, retries=0, watch=watch)
        while (trial := queue.next()) is not None:
            _carry_out(trial, queue)
        return queue.outcome


def _carry_out(trial: Trial, queue: TrialQueue) -> None:
    def on_step(done: int, total: int) -> None:
        queue.take(trial, StepsDone(done, total))

    queue.take(trial, Started("this process"))
    try:
        result = trial.function(trial.argument, on_step)
    except BrokenOffError as error:  # so would be the next
        error.kept = None  # the caller says what of all trials is kept
        raise
    except InputError as error:
        queue.take(trial, Failed(str(error)))
    else:
        queue.take(trial, Done(result))
