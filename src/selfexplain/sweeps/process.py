"""A worker process as its parent sees it."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing import Pipe

from selfexplain.errors import WriteError, first_line
from selfexplain.sweeps.messages import Done, Failed, Message
from selfexplain.sweeps.trial import Trial

SHOWN = 2000
"""Last bytes of a worker's output that are shown if it dies."""


class WorkerProcess:
    """A process that runs one trial at a time.

    It is started as a fresh interpreter, so it imports neither the script that the user ran nor
    anything that was forked with locks held; and in a process group of its own, so that an
    interrupt at the keyboard reaches only its parent.

    Args:
        environment: its environment variables.

    Raises:
        WriteError: there is no room for what it says.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.trial: Trial | None = None
        self.gpu = environment.get("CUDA_VISIBLE_DEVICES")
        """Which GPU it sees; None for no choice."""
        self.pipe, theirs = Pipe()
        try:
            self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        except OSError as error:  # no folder for temporary files has room
            raise WriteError(
                f"a worker process has no file for what it says ({first_line(error)[:200]}); make "
                "room there, or pass TMPDIR with a folder that has some"
            ) from error
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            # -P: modules of the current folder do not go before those of the libraries.
            [sys.executable, "-P", "-m", "selfexplain.sweeps.worker", str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        theirs.close()

    def begin(self, trial: Trial) -> None:
        """Let it run a trial."""
        self.trial = trial
        with suppress(OSError):  # if it has died, news() says so
            self.pipe.send_bytes(pickle.dumps(trial))

    def news(self) -> Iterator[Message]:
        """What it has sent; after a last message of its trial it has none.

        A worker that died fails its trial, unless it had sent the result before.
        """
        died = self._process.poll() is not None  # before reading: what it sent comes first
        with suppress(EOFError, OSError):
            while self.trial is not None and self.pipe.poll():
                message = pickle.loads(self.pipe.recv_bytes())  # noqa: S301 - from our worker
                if isinstance(message, Done | Failed):
                    self.trial = None
                yield message
        if died and self.trial is not None:
            self.trial = None
            yield Failed(f"its process {self._end()}{self._last_words()}", retry=True)

    @property
    def alive(self) -> bool:
        """Whether it can be given a trial."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it and whatever it has started. Files of runs are written whole or not at all."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.pipe.close()
        self._output.close()

    def _end(self) -> str:
        code = self._process.returncode
        if code >= 0:
            return f"ended with exit code {code}"
        hint = " (out of memory? then pass fewer --workers)" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"

    def _last_words(self) -> str:
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - SHOWN))
        lines = self._output.read().decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return f": {words[-1]}" if words else ""
