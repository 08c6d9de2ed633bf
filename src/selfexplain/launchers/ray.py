"""Trials on a Ray cluster: one that exists, or one started on this machine for the sweep.

The folders that trials read and write must lie on a file system that all machines of the cluster
see under the same paths, unless their results go to a store (store.py).
"""

import importlib
import os
import pickle
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfexplain.errors import InputError, first_line, import_failure
from selfexplain.launchers.trials import (
    Done,
    Failed,
    Message,
    Outcome,
    Started,
    Trial,
    TrialQueue,
    Watch,
    attempt,
    ignore,
)

# The part of a Ray sweep that runs on the machines of the cluster.


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker inherits from the process that started the sweep."""

    folder: str
    """Paths in configurations may be relative to it."""
    module_folders: tuple[str, ...]
    """Where modules are looked for, after the worker's own."""
    required: bool = True
    """Whether trials can do nothing where the folder is not seen."""

    def enter(self) -> None:
        """Go there, or raise InputError if this machine does not see a folder that is required."""
        sys.path += [folder for folder in self.module_folders if folder not in sys.path]
        try:
            os.chdir(self.folder)
        except OSError as error:
            if not self.required:
                return
            raise InputError(
                f"{socket.gethostname()} cannot enter {self.folder} ({error.strerror}); start the "
                "sweep in a folder that all machines of the cluster can access, or pass --out "
                "with a URL"
            ) from error


class Mailbox:
    """An actor to which trials post messages, for the sweep to collect."""

    def __init__(self) -> None:
        self.news: list[tuple[str, Message]] = []

    def post(self, name: str, message: Message) -> None:
        """Leave news of a trial."""
        self.news.append((name, message))

    def take(self) -> list[tuple[str, Message]]:
        """All news since the last time, oldest first."""
        news, self.news = self.news, []
        return news


def hide_gpus_not_asked_for(ray: Any) -> None:
    """Let a run that was given no GPU see none.

    Ray says which GPUs a run has by CUDA_VISIBLE_DEVICES, but leaves it alone for runs without:
    they would all take the first GPU of their machine.
    """
    if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def attempt_there(pickled: bytes, mailbox: Any, context: WorkerContext) -> Message:
    """Run a trial on a machine of the cluster; return its last message, post the others."""
    ray = import_ray()
    hide_gpus_not_asked_for(ray)
    try:
        context.enter()
    except InputError as error:
        return Failed(str(error))
    trial: Trial = pickle.loads(pickled)  # noqa: S301 - from the process that started the sweep
    last: list[Message] = []

    def send(message: Message) -> None:
        if isinstance(message, Done | Failed):
            last.append(message)
            return
        posted = mailbox.post.remote(trial.name, message)
        if isinstance(message, Started):  # nobody is to see an end without a beginning
            with suppress(ray.exceptions.RayError):
                ray.get(posted)

    attempt(trial, send, f"{socket.gethostname()}, process {os.getpid()}")
    return last[0]


def import_ray() -> Any:
    """The ray package; InputError if it is not installed."""
    try:
        return importlib.import_module("ray")
    except Exception as error:  # a package that is broken may raise anything
        install = "install it with: pip install 'selfexplain[ray]'"
        raise import_failure(error, "--cluster ray", "ray", install) from error


SECONDS_BETWEEN_LOOKS = 0.5


class RayCluster:
    """Runs as many trials at a time as the cluster has room for, each in a Ray worker.

    A trial whose worker or machine dies, or which raises what nobody expects, is tried again
    wherever there is room; bad input fails it at once.

    Args:
        address: of the cluster (`HOST:PORT`, or `auto` for the one that this machine belongs to);
            None to start one on this machine, which ends with the sweep.
        workers: most trials at a time; None for as many as there is room for.
        gpus_per_run: share of a GPU, or number of GPUs, that a trial asks for; None for one if the
            cluster has GPUs.
        cpus_per_run: cores that a trial asks for, and its threads.
        retries: how often a trial is tried again.
        shared_folder: whether trials need the folder in which the sweep was started.

    Raises:
        InputError: ray is not installed, or (by `run`) there is no such cluster, or it has no room
            for a trial.

    Example:
        >>> RayCluster(gpus_per_run=0.25).isolated
        True
    """

    isolated = True

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        gpus_per_run: float | None = None,
        cpus_per_run: int = 1,
        retries: int = 2,
        shared_folder: bool = True,
    ) -> None:
        self.ray = import_ray()
        self.shared_folder = shared_folder
        self.address, self.workers, self.retries = address, workers, retries
        self.gpus_per_run, self.cpus_per_run = gpus_per_run, cpus_per_run

    def run(self, trials: Sequence[Trial], watch: Watch = ignore) -> Outcome:
        """Carry out all trials, in order as there is room for them."""
        queue = TrialQueue(trials, self.retries, watch)
        if not trials:
            return queue.outcome
        joined = self.ray.is_initialized()  # by the user's own program, which then ends it
        if not joined:
            self._connect()
        try:
            context = WorkerContext(str(Path.cwd()), tuple(sys.path), self.shared_folder)
            _Sweep(self.ray, queue, self._needs(), self.workers, context).run()
        finally:
            if not joined:
                self.ray.shutdown()
        return queue.outcome

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        local = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
        try:
            _reach(self.address)
            self.ray.init(
                address=self.address or "local",
                log_to_driver=False,
                logging_level="ERROR",
                **({} if self.address else local),
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster can be used at {self.address or 'this machine'} "
                f"({first_line(error)}); pass --cluster-address HOST:PORT, or leave it out to "
                "start one here"
            ) from error

    def _needs(self) -> dict[str, float]:
        """What a trial asks for, if a machine of the cluster has it at all: all on one."""
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        gpus = self.gpus_per_run
        if gpus is None:
            gpus = 1 if any(machine.get("GPU") for machine in machines) else 0
        asked = {"GPU": gpus, "CPU": self.cpus_per_run}
        for name, count in asked.items():
            most = max((machine.get(name, 0) for machine in machines), default=0)
            if count > most:
                raise InputError(
                    f"each run asks for {count:g} {name}s, but no machine of the cluster has more "
                    f"than {most:g}; pass a smaller --{name.lower()}s-per-run"
                )
        if not any(all(m.get(n, 0) >= count for n, count in asked.items()) for m in machines):
            raise InputError(
                f"each run asks for {gpus:g} GPUs and {self.cpus_per_run} CPUs, but no machine of "
                "the cluster has both; pass a smaller --cpus-per-run or --gpus-per-run"
            )
        return {"num_cpus": self.cpus_per_run, "num_gpus": gpus}


class _Sweep:
    """One sweep on a cluster that is connected."""

    def __init__(
        self,
        ray: Any,
        queue: TrialQueue,
        needs: dict[str, float],
        workers: int | None,
        context: WorkerContext,
    ) -> None:
        self.ray, self.queue, self.workers, self.context = ray, queue, workers, context
        # Here, and not where a machine may die, or be kept from an autoscaler by it.
        here = importlib.import_module("ray.util.scheduling_strategies")
        place = here.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self.mailbox = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=place)(
            Mailbox
        ).remote()
        # We try again ourselves, so that every attempt is counted and told of.
        self.attempt = ray.remote(max_retries=0, **needs)(attempt_there)
        self.running: dict[Any, Trial] = {}

    def run(self) -> None:
        try:
            while not self.queue.finished:
                self._hand_out()
                ended, _ = self.ray.wait(list(self.running), timeout=SECONDS_BETWEEN_LOOKS)
                self._tell()
                for reference in ended:
                    self.queue.take(self.running.pop(reference), self._end_of(reference))
        finally:
            for reference in self.running:
                self.ray.cancel(reference, force=True)

    def _hand_out(self) -> None:
        while self.workers is None or len(self.running) < self.workers:
            trial = self.queue.next()
            if trial is None:
                return
            begun = self.attempt.remote(pickle.dumps(trial), self.mailbox, self.context)
            self.running[begun] = trial

    def _tell(self) -> None:
        """Pass on the messages of running trials. A lost mailbox loses no result."""
        at_work = {trial.name: trial for trial in self.running.values()}
        with suppress(self.ray.exceptions.RayError):
            for name, message in self.ray.get(self.mailbox.take.remote()):
                if name in at_work:
                    self.queue.take(at_work[name], message)

    def _end_of(self, reference: Any) -> Message:
        """The last message of an attempt: what it returned, or that it died."""
        try:
            message: Message = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # its result cannot be sent, or the like
            return Failed(first_line(error.cause or error), detail=str(error), retry=True)
        except self.ray.exceptions.RayError as error:
            return Failed(f"its Ray worker died ({type(error).__name__})", retry=True)
        return message


def _reach(address: str | None) -> None:
    """Raise OSError if nothing listens at HOST:PORT; Ray itself would retry for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon:
        with socket.create_connection((host, int(port)), timeout=10):
            pass
