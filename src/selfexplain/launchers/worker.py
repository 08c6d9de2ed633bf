"""A worker process: `python -m selfexplain.launchers.worker FD` runs the trials it is sent.

It dies with its parent: the pipe between them closes then, whatever the parent died of.
"""

import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue

from selfexplain.launchers.trials import Failed, Message, attempt


def main(descriptor: int) -> None:
    """Run the trials that come through the pipe, one after another, until it closes."""
    pipe = Connection(descriptor)
    trials: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, trials), daemon=True).start()
    while True:
        _run(trials.get(), pipe)


def _receive(pipe: Connection, trials: "SimpleQueue[bytes]") -> None:
    try:
        while True:
            trials.put(pipe.recv_bytes())
    except (EOFError, OSError):  # there is no parent any more
        # The worker leads a process group of its own, so that what it started ends with it.
        os.killpg(os.getpid(), signal.SIGKILL)


def _run(pickled: bytes, pipe: Connection) -> None:
    def send(message: Message) -> None:
        pipe.send_bytes(pickle.dumps(message))

    try:
        trial = pickle.loads(pickled)  # noqa: S301 - from our parent
    except Exception as error:
        send(
            Failed(
                f"it cannot be unpickled in a worker process ({error}); pass a function of an "
                "importable module"
            )
        )
    else:
        attempt(trial, send)


if __name__ == "__main__":
    main(int(sys.argv[1]))
