"""Trials that worker processes can import. Each keeps a diary: a line for every step it takes."""

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path

from selfexplain.errors import InputError, OutOfMemoryError
from selfexplain.launchers import Trial

STEPS = 4


def count_up(folder: Path, on_step) -> int:
    """Takes four steps with a checkpoint after each, and goes on from the last."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, diary = folder / "checkpoint", folder / "diary"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    while done < STEPS:
        done += 1
        with diary.open("a") as file:
            file.write(f"{done} by {os.getpid()}\n")
        checkpoint.write_text(str(done))
        on_step(done, STEPS)
        if (folder / "slow").exists():
            time.sleep(1)
    return done


def refused(folder: Path, on_step) -> int:
    count_up(folder, on_step)
    raise InputError("the loss became nan; pass a smaller --lr")


def on_a_full_disk(folder: Path, on_step) -> int:
    count_up(folder, on_step)
    raise OSError(errno.ENOSPC, "No space left on device", str(folder / "events"))


def raising_once(folder: Path, on_step) -> int:
    if not (folder / "checkpoint").exists():
        count_up(folder, on_step)
        raise RuntimeError("a GPU fell off\nthe bus")
    return count_up(folder, on_step)


def raising(folder: Path, on_step) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "diary").open("a") as file:
        file.write("raised\n")
    raise ZeroDivisionError("oh")


def exiting(folder: Path, on_step) -> int:
    print("last words", flush=True)
    os._exit(3)


def environment(names, on_step) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def on_a_share(place: tuple[Path, int], on_step) -> dict[str, object]:
    """Waits until so many trials have come to the folder, then looks how many are there at once."""
    folder, together = place
    mine = f"{os.getpid()}-{time.monotonic_ns()}"
    (folder / f"came-{mine}").touch()
    (folder / f"here-{mine}").touch()
    patience = time.monotonic() + 90
    while len(list(folder.glob("came-*"))) < together:
        assert time.monotonic() < patience, "the others did not come"
        time.sleep(0.05)
    most, leaves = 0, time.monotonic() + 1
    while time.monotonic() < leaves:
        most = max(most, len(list(folder.glob("here-*"))))
        time.sleep(0.05)
    (folder / f"here-{mine}").unlink()
    return {"most": most, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}


def trials(folder: Path, *functions) -> list[Trial]:
    return [Trial(f.__name__, f, folder / f.__name__) for f in functions]


def diary(folder: Path, trial: str) -> list[str]:
    return (folder / trial / "diary").read_text().splitlines()


def roomy(folder: Path, on_step) -> int:
    """Runs until two others have found no room beside it."""
    while len(list(folder.parent.glob("*/no-room"))) < 2:
        time.sleep(0.05)
    time.sleep(0.5)  # their places are closed by then, and they wait for this one
    return count_up(folder, on_step)


def without_room_at_first(folder: Path, on_step) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "no-room").exists():
        (folder / "no-room").touch()
        raise OutOfMemoryError("the GPU is out of memory")
    return count_up(folder, on_step)


def slow(folder: Path, on_step) -> int:
    time.sleep(1)
    return count_up(folder, on_step)


def never_enough(folder: Path, on_step) -> int:
    raise OutOfMemoryError("the GPU is out of memory")


@dataclass(frozen=True)
class RunOfTwoFiles:
    """The configuration of a trial that leaves a finished run's folder."""

    out: Path
    resume: bool = True
    held: Path | None = None
    """A file: the first attempt creates it and waits to be killed."""


def leave_a_run(config: RunOfTwoFiles, on_step) -> int:
    """Writes a run's folder, weights before the result; does nothing if they are there."""
    if not (config.out / "result.json").exists():
        (config.out / "album").mkdir(parents=True)
        (config.out / ".lock").touch()
        (config.out / "run.json").write_text(f"by {os.getpid()} in {config.out}")
        (config.out / "album" / "weights").write_text(config.out.name * 1000)
        first = config.held is not None and not config.held.exists()
        if first:
            config.held.touch()
        on_step(1, 2)
        if first:
            time.sleep(300)
        (config.out / "result.json").write_text(config.out.name)
    return len((config.out / "album" / "weights").read_text())
