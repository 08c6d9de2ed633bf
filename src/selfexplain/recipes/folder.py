"""The folder of a run or a comparison: whose it is, and that one process writes to it at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from selfexplain.errors import BrokenOffError, InputError, first_line
from selfexplain.recipes.machines import first_process
from selfexplain.recipes.options import plain, shortened
from selfexplain.records import escaped
from selfexplain.training.checkpoint import epochs_kept
from selfexplain.training.files import read_json
from selfexplain.training.processes import lost_process_said
from selfexplain.writing import clear_leftovers, no_room_said

if TYPE_CHECKING:  # a refusal comes before its seconds of import
    from lightning_fabric import Fabric


LOCK = ".lock"
_MADE_WITH = "pass the options it was made with"
RECORDS = {
    "compare.json": "a comparison (compare.json)",
    "searches.json": "several searches (searches.json)",
    "run.json": "a single run (run.json)",
}
"""File that tells what a folder holds -> what it is, for messages."""


@contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other runs out of a folder; the operating system frees it if the process dies.

    What killed processes left half-written in it is cleared away first.

    Args:
        folder: made if it does not exist.
        patience: seconds to wait for another process to leave it.

    Raises:
        InputError: another process writes to the folder.

    Example:
        >>> import tempfile
        >>> with locked(Path(tempfile.mkdtemp())):
        ...     pass
    """
    if not first_process():  # the first process of a run holds the lock for all of them
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / LOCK).acquire(timeout=patience)
    except Timeout as error:
        raise InputError(
            f"another process is writing to {folder}; wait for it, or pass another --out"
        ) from error
    except (OSError, NotImplementedError) as error:  # a file system may know no locks
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{folder} cannot be written to ({reason}); pass another --out") from error
    with held:
        clear_leftovers(folder)
        yield


@contextmanager
def kept_said(folder: Path) -> Iterator[None]:
    """Say of work that is broken off, by a full disk or a lost process, what of it is kept.

    Args:
        folder: of the run, or of the runs.

    Raises:
        WriteError: a file cannot be written.
        LostProcessError: another process of the run has ended.

    Example:
        >>> from selfexplain.errors import WriteError
        >>> with kept_said(Path("absent")):
        ...     raise WriteError("a.json cannot be written")
        Traceback (most recent call last):
        selfexplain.errors.WriteError: a.json cannot be written; no epoch was finished
    """
    try:
        with no_room_said(), lost_process_said():
            yield
    except BrokenOffError as error:
        if error.kept is None:
            error.kept = _kept_in(folder)
        raise


def _kept_in(folder: Path) -> str:
    path = folder / "checkpoint.pt"
    epoch = epochs_kept(path)
    if epoch is not None:
        return (
            f"the checkpoint of epoch {epoch} is kept in {path}, and the same command with "
            "--resume goes on from it"
        )
    if any(folder.glob("*/checkpoint.pt")) or any(folder.glob("*/*/checkpoint.pt")):
        return "what its runs have finished is kept, and the same command again goes on from it"
    return "no epoch was finished"


@contextmanager
def waited_for(folder: Path, fabric: Fabric) -> Iterator[None]:
    """Keep a folder for this run, after whoever has it is done; all of its processes wait.

    For a folder that several runs share. The lock is a file beside it, so that a run inside may
    still lock the folder itself.

    Example:
        >>> import tempfile
        >>> from lightning_fabric import Fabric
        >>> fabric = Fabric(accelerator="cpu", devices=1)
        >>> with waited_for(Path(tempfile.mkdtemp()) / "shared", fabric):
        ...     pass
    """
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    # In portions, so that the other processes' collective call does not run out of time.
    while not fabric.broadcast(not fabric.is_global_zero or _acquired(lock, seconds=60)):
        pass
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock, seconds: float) -> bool:
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    except OSError as error:
        raise InputError(
            f"{lock.lock_file} cannot be written ({error.strerror}); pass another --out"
        ) from error
    return True


def run_name(spec: str, seed: int) -> str:
    """Name of the folder of one run among several, short enough for every file system.

    Example:
        >>> run_name("introspective:weight=0.1", 2)
        'introspective_weight-0.1-seed2'
        >>> len(run_name("introspective:layer=" + "a" * 300, 2))
        220
    """
    name = re.sub(r"[^\w.+-]+", "_", spec.replace("=", "-"))
    return shortened(f"{name}-seed{seed}")


def claim_folder(config: Any) -> str:
    """Check that a run's folder is free, or holds this very run; return the run's identity.

    Args:
        config: a dataclass with `out` and `resume`.

    Raises:
        InputError: the folder holds another run, or this one and `resume` is off.
    """
    identity = json.dumps(plain(config, leave_out=("out", "resume")), sort_keys=True)
    if any((config.out / name).exists() for name in ("checkpoint.pt", "result.json")):
        check_same_config(
            saved_config(config.out / "run.json"),
            json.loads(identity),
            config.out,
            remedy=_MADE_WITH if config.resume else f"{_MADE_WITH} and --resume",
        )
        if not config.resume:
            raise InputError(
                f"{config.out} holds this run already; pass --resume to continue it, or another "
                "--out"
            )
    else:
        check_free(config.out)
    return identity


def check_free(folder: Path) -> None:
    """Raise InputError unless a folder is new, or holds nothing but a start that failed.

    Example:
        >>> check_free(Path("absent"))
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; pass --out with a folder")
    leavings = {
        "album",
        "run.json",
        "compare.json",
        "metrics.jsonl",
        "search.jsonl",
        "tensorboard",
        "wandb",
        "mlflow",
        "cost",
        "genotype.json",
        "cell.svg",
        "architecture.png",
        "teachers",
        "report.html",
    }
    files = {path.name for path in folder.iterdir()} if folder.exists() else set()
    # Names that begin with a dot are locks and files that are being written.
    if any(name not in leavings and not name.startswith(".") for name in files):
        held = [what for name, what in RECORDS.items() if name in files]
        if held:
            raise InputError(
                f"{folder} holds {held[0]}, which this command cannot continue; pass another --out"
            )
        raise InputError(f"{folder} is not empty and holds no run; pass another --out")


def saved_config(path: Path) -> dict[str, Any]:
    """The configuration in a `run.json` or `compare.json`.

    Raises:
        InputError: the file cannot be read or holds none.
    """
    config = read_json(path).get("config")
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no configuration; delete it, or pass another folder")
    return config


def check_same_config(
    old: dict[str, Any], new: dict[str, Any], folder: Path, remedy: str = _MADE_WITH
) -> None:
    """Raise InputError that names the first options in which two configurations differ.

    Args:
        old: configuration of what the folder holds.
        new: configuration that was passed.
        folder: of both.
        remedy: what to do, other than to take another folder.

    Example:
        >>> check_same_config({"seed": 0}, {"seed": 0}, Path("out"))
    """
    differing = _differences(old, new)
    if differing:
        raise InputError(
            f"{folder} holds a run with other options ({'; '.join(differing[:3])}); {remedy}, or "
            "another --out"
        )


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), k)]
    if old == new:
        return []
    told = escaped(f"{name} was {old}, is {new}")
    return [told if len(told) <= 200 else f"{name} is another"]  # a genotype is a long text
