"""Trials in parallel, in processes on this machine."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path

from selfexplain.errors import InputError, WriteError, first_line
from selfexplain.launchers.trials import (
    Done,
    Failed,
    Message,
    Outcome,
    Trial,
    TrialQueue,
    Watch,
    ignore,
)
from selfexplain.limits import check_in_range

# How the cores and GPUs of this machine are shared among workers.


def worker_environment(
    place: int, workers: int, gpus: list[str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment variables of worker `place` of `workers`, from those inherited.

    Every worker gets its share of the cores as threads, unless OMP_NUM_THREADS is set, and one of
    the GPUs; workers that outnumber the GPUs share them evenly.
    """
    variables = {"OMP_NUM_THREADS": str(max(1, cores() // workers)), **inherited}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    # A worker finds the modules that this process would find, and no others first.
    variables["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in sys.path)
    return variables


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus_here(inherited: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES calls them."""
    import torch  # not above: the command line reads the options of sweeps without it

    allowed = inherited.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if allowed is None:
        return [str(i) for i in range(count)]
    return [name.strip() for name in allowed.split(",") if name.strip()][:count]


# A worker process as its parent sees it.


SHOWN = 2000
"""Last bytes of a worker's output that are shown if it dies."""


class WorkerProcess:
    """A process that runs one trial at a time.

    It is started as a fresh interpreter, so it imports neither the script that the user ran nor
    anything that was forked with locks held; and in a process group of its own, so that an
    interrupt at the keyboard reaches only its parent.
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
                "the temporary file for the output of a worker process cannot be created "
                f"({first_line(error)[:200]}); free some space, or set TMPDIR to another folder"
            ) from error
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            # -P: modules of the current folder do not go before those of the libraries.
            [sys.executable, "-P", "-m", "selfexplain.launchers.worker", str(theirs.fileno())],
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
        """The messages it has sent; none after the last message of its trial.

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
        hint = " (if it was out of memory, pass fewer --workers)" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"

    def _last_words(self) -> str:
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - SHOWN))
        lines = self._output.read().decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return f": {words[-1]}" if words else ""


SECONDS_BETWEEN_LOOKS = 0.2
"""A worker whose death closes no pipe is missed at the latest after this time."""


class LocalWorkers:
    """Runs several trials at a time, each worker process one.

    A trial whose worker dies, or which raises what nobody expects, is tried again in a new worker;
    bad input fails it at once. If a GPU has no memory left for all that share it, one worker fewer
    goes on, and the trial that had no room waits for a place. However the sweep ends, no worker
    outlives it, nor this process.

    Args:
        workers: processes; each gets an equal share of the cores and one of the GPUs.
        retries: how often a trial is tried again.

    Raises:
        InputError: there is less than one worker, or the system is Windows.

    Example:
        >>> import math
        >>> LocalWorkers(2).run([]).complete()
        {}
    """

    isolated = True

    def __init__(self, workers: int, *, retries: int = 2) -> None:
        check_in_range("workers", workers, 1)
        if os.name == "nt":
            raise InputError("worker processes need Linux or macOS; pass --workers 1")
        self.workers, self.retries = workers, retries

    def run(self, trials: Sequence[Trial], watch: Watch = ignore) -> Outcome:
        """Carry out all trials, in order as workers become free."""
        queue = TrialQueue(trials, self.retries, watch)
        count = min(self.workers, len(trials))
        gpus = gpus_here(os.environ)
        environments = [worker_environment(i, count, gpus, os.environ) for i in range(count)]
        workers: dict[int, WorkerProcess | None] = dict.fromkeys(range(count))
        try:
            while not queue.finished:
                for place in workers:
                    workers[place] = _busy(workers[place], queue, environments[place])
                out_of_memory = _listen([w for w in workers.values() if w is not None], queue)
                for place in [p for p, worker in workers.items() if worker in out_of_memory]:
                    del workers[place]
        finally:
            for worker in workers.values():
                if worker is not None:
                    worker.stop()
        return queue.outcome


def _busy(
    worker: WorkerProcess | None, queue: TrialQueue, environment: dict[str, str]
) -> WorkerProcess | None:
    """The worker of a place, at work if there is any: a new one if it has died or was not there."""
    if worker is not None and worker.trial is not None:
        return worker
    trial = queue.next()
    if worker is not None and (trial is None or not worker.alive):
        worker.stop()
        worker = None
    if trial is not None:
        worker = worker or WorkerProcess(environment)
        worker.begin(trial)
    return worker


def _listen(workers: list[WorkerProcess], queue: TrialQueue) -> list[WorkerProcess]:
    """Take in all news, after a short wait; return workers short of memory beside others."""
    out_of_memory = []
    wait([worker.pipe for worker in workers], timeout=SECONDS_BETWEEN_LOOKS)
    for worker in workers:
        trial = worker.trial
        for message in worker.news():
            assert trial is not None
            if isinstance(message, Failed) and message.retry:
                worker.stop()  # with what it left behind; the next attempt gets a new one
            oom = (
                isinstance(message, Failed)
                and message.oom
                and any(other.trial and other.gpu == worker.gpu for other in workers)
            )
            # Attempts without room are no more than the places that they close.
            queue.take(trial, message, counts=not oom)
            if oom:
                out_of_memory.append(worker)
    return out_of_memory
