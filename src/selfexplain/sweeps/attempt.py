"""One attempt at a trial, in the process that was given it."""

import os
import time
import traceback
from collections.abc import Callable

from selfexplain.errors import InputError, ShortageError, first_line
from selfexplain.sweeps.messages import Done, Failed, Message, Started, Step
from selfexplain.sweeps.trial import StepCallback, Trial
from selfexplain.writing import no_room_said

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
    except ShortageError as error:
        send(Failed(str(error), retry=True, shortage=True))
    except InputError as error:
        send(Failed(str(error)))
    except Exception as error:
        told = f"{type(error).__name__}: {first_line(error)}"
        send(Failed(told, detail=traceback.format_exc(), retry=True))
    else:
        send(Done(result))


def sparing(send: Callable[[Message], None]) -> StepCallback:
    """A callback that sends the first step, the last, and in between one from time to time.

    Example:
        >>> sent = []
        >>> on_step = sparing(sent.append)
        >>> for done in range(1, 101):
        ...     on_step(done, 100)
        >>> sent[0], sent[-1], len(sent) < 100
        (Step(done=1, total=100), Step(done=100, total=100), True)
    """
    last = -float("inf")

    def on_step(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= SECONDS_BETWEEN_STEPS:
            last = now
            send(Step(done, total))

    return on_step
