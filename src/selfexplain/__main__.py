"""The command `selfexplain`, also as `python -m selfexplain`: how its program begins and ends.

Here, and not in cli.py, since an interrupt is to find this in place before anything is imported.
"""

import os
import signal
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from types import FrameType
from typing import TextIO

STOPPED, UNREAD = 128 + signal.SIGINT, 141
"""Exit codes of what was interrupted, and of what nobody reads any more, as shells have them."""

SPINS = "1000"
"""Rounds, some microseconds, that a waiting thread of torch's spins before it sleeps.

By default (GNU's OpenMP) it spins for about a millisecond. Where other programs keep the cores busy
the thread that it waits for may not run in that time, while the spinning one uses up both their
turns, and a step of a small network takes many times as long as it should.
"""


def main() -> None:
    """Run the command line as a program of its own."""
    _fill_standard_streams()
    spin_shortly(os.environ)
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not under nohup
    if ours:
        signal.signal(signal.SIGINT, interrupted)
    # What the terminal cannot show, such as ± in ASCII, ends no run.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        from selfexplain.cli import main as run

        try:
            run()
        finally:
            if ours:  # nothing is left that an interrupt could spare
                signal.signal(signal.SIGINT, _leave)
            flush_or_mute(sys.stdout)
    except KeyboardInterrupt:  # again, while the first one was dealt with
        sys.exit(STOPPED)
    except BrokenPipeError:
        mute(sys.stdout)
        sys.exit(UNREAD)


def spin_shortly(environment: MutableMapping[str, str]) -> None:
    """Let threads that wait sleep soon, unless the user said how they wait; before torch loads."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)


def interrupted(number: int, frame: FrameType | None) -> None:
    """Take an interrupt: KeyboardInterrupt, or the end at once of a program that is importing.

    An exception out of the middle of an import may be swallowed there, or become another one.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _leave(number, frame)
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
    with suppress(OSError):
        os.write(2, b"selfexplain: stopped; finished epochs are kept\n")
    os._exit(STOPPED)


def flush_or_mute(stream: TextIO) -> None:
    """Write what is left of the output; say why if that cannot be done, and exit with 2."""
    try:
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        mute(stream)
        print(f"selfexplain: the output cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(2)


def mute(stream: TextIO) -> None:
    """Redirect a stream to nowhere, so that Python does not fail to flush it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _fill_standard_streams() -> None:
    """Open whichever of standard input, output and error are closed, to nowhere.

    Otherwise the next files opened would get these numbers, and prints would be written to them.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # as Python has it then
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123


if __name__ == "__main__":
    main()
