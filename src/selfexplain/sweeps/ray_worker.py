"""The part of a Ray sweep that runs on the machines of the cluster."""

import importlib
import os
import pickle
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from selfexplain.errors import InputError, import_failure
from selfexplain.sweeps.attempt import attempt
from selfexplain.sweeps.messages import Done, Failed, Message, Started
from selfexplain.sweeps.trial import Trial


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker takes over from the process that started the sweep."""

    folder: str
    """Paths in configurations may be relative to it."""
    module_folders: tuple[str, ...]
    """Where modules are looked for, after the worker's own."""

    def enter(self) -> None:
        """Go there, or raise InputError if this machine does not see the folder."""
        sys.path += [folder for folder in self.module_folders if folder not in sys.path]
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise InputError(
                f"{socket.gethostname()} cannot enter {self.folder} ({error.strerror}); start the "
                "sweep in a folder that all machines of the cluster see"
            ) from error


class Board:
    """An actor on which trials pin their news, for the sweep to take."""

    def __init__(self) -> None:
        self.news: list[tuple[str, Message]] = []

    def pin(self, name: str, message: Message) -> None:
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


def attempt_there(pickled: bytes, board: Any, place: Place) -> Message:
    """Run a trial on a machine of the cluster; return its last message, pin the others."""
    ray = import_ray()
    hide_gpus_not_asked_for(ray)
    try:
        place.enter()
    except InputError as error:
        return Failed(str(error))
    trial: Trial = pickle.loads(pickled)  # noqa: S301 - from the process that started the sweep
    last: list[Message] = []

    def send(message: Message) -> None:
        if isinstance(message, Done | Failed):
            last.append(message)
            return
        pinned = board.pin.remote(trial.name, message)
        if isinstance(message, Started):  # nobody is to see an end without a beginning
            with suppress(ray.exceptions.RayError):
                ray.get(pinned)

    attempt(trial, send, f"{socket.gethostname()}, process {os.getpid()}")
    return last[0]


def import_ray() -> Any:
    """The ray package; InputError if it is not installed."""
    try:
        return importlib.import_module("ray")
    except Exception as error:  # a package that is broken may raise anything
        install = "install it with: pip install 'selfexplain[ray]'"
        raise import_failure(error, "--cluster ray", "ray", install) from error
