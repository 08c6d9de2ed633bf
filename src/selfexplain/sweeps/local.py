"""Trials side by side, in processes on this machine."""

import os
from collections.abc import Sequence
from multiprocessing.connection import wait

from selfexplain.errors import InputError
from selfexplain.sweeps.ledger import Ledger
from selfexplain.sweeps.messages import Failed
from selfexplain.sweeps.process import WorkerProcess
from selfexplain.sweeps.resources import gpus_here, worker_environment
from selfexplain.sweeps.trial import Outcome, Trial, Watch, ignore

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

    apart = True

    def __init__(self, workers: int, *, retries: int = 2) -> None:
        if workers < 1:
            raise InputError(f"workers is {workers}; pass a whole number of at least 1")
        if os.name == "nt":
            raise InputError("worker processes need Linux or macOS; pass --workers 1")
        self.workers, self.retries = workers, retries

    def run(self, trials: Sequence[Trial], watch: Watch = ignore) -> Outcome:
        """Carry out all trials, in order as workers become free."""
        ledger = Ledger(trials, self.retries, watch)
        count = min(self.workers, len(trials))
        gpus = gpus_here(os.environ)
        environments = [worker_environment(i, count, gpus, os.environ) for i in range(count)]
        workers: dict[int, WorkerProcess | None] = dict.fromkeys(range(count))
        try:
            while not ledger.finished:
                for place in workers:
                    workers[place] = _busy(workers[place], ledger, environments[place])
                without_room = _listen([w for w in workers.values() if w is not None], ledger)
                for place in [p for p, worker in workers.items() if worker in without_room]:
                    del workers[place]
        finally:
            for worker in workers.values():
                if worker is not None:
                    worker.stop()
        return ledger.outcome


def _busy(
    worker: WorkerProcess | None, ledger: Ledger, environment: dict[str, str]
) -> WorkerProcess | None:
    """The worker of a place, at work if there is any: a new one if it has died or was not there."""
    if worker is not None and worker.trial is not None:
        return worker
    trial = ledger.next()
    if worker is not None and (trial is None or not worker.alive):
        worker.stop()
        worker = None
    if trial is not None:
        worker = worker or WorkerProcess(environment)
        worker.begin(trial)
    return worker


def _listen(workers: list[WorkerProcess], ledger: Ledger) -> list[WorkerProcess]:
    """Wait until a worker has news, or a little while, and enter all there is.

    Returns:
        The workers for whom there was no room beside others at work on the same GPU.
    """
    without_room = []
    wait([worker.pipe for worker in workers], timeout=SECONDS_BETWEEN_LOOKS)
    for worker in workers:
        trial = worker.trial
        for message in worker.news():
            assert trial is not None
            if isinstance(message, Failed) and message.retry:
                worker.stop()  # with what it left behind; the next attempt gets a new one
            no_room = (
                isinstance(message, Failed)
                and message.shortage
                and any(other.trial and other.gpu == worker.gpu for other in workers)
            )
            # Attempts without room are no more than the places that they close.
            ledger.take(trial, message, counts=not no_room)
            if no_room:
                without_room.append(worker)
    return without_room
