"""The folder of a run: claimed and locked, its record written, read again when it is finished."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from selfexplain.data.images import Ranges
from selfexplain.distributed import lost_process_said
from selfexplain.errors import BrokenOffError, InputError, first_line
from selfexplain.experiments.data import Prepared
from selfexplain.experiments.options import CompareConfig, first_process, to_dict
from selfexplain.experiments.read_records import IMAGES, TRAINED, check_model_of, lengths_agree
from selfexplain.files import (
    clear_leftovers,
    no_room_said,
    read_json,
    read_tensors,
    tensor_shapes,
    write_record,
    write_tensors,
)
from selfexplain.records import escaped, printable
from selfexplain.training.checkpoint import epochs_kept, loading_from
from selfexplain.training.log import EpochLog

if TYPE_CHECKING:
    from lightning_fabric import Fabric


# What a result depends on besides its configuration: versions, hardware, commit.


PACKAGES = ("selfexplain", "torch", "numpy", "lightning-fabric", "datasets")


def environment(device: torch.device) -> dict[str, object]:
    """Versions, hardware, threads, git commit, date and command, for the record.

    Example:
        >>> sorted(environment(torch.device("cpu")))
        ['command', 'commit', 'date', 'hardware', 'platform', 'python', 'threads', 'versions']
    """
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "commit": commit(Path(__file__).parent),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(sys.argv),
    }


def command_line(argv: Sequence[str]) -> str | None:
    """The command that this process was started with; None if it is another program.

    Example:
        >>> command_line(["/usr/bin/selfexplain", "train", "--out", "my runs"])
        "selfexplain train --out 'my runs'"
    """
    program = Path(argv[0] if argv else "")
    # `python -m selfexplain` is known by the file of that module.
    ours = program.stem == "selfexplain" or program == Path(__file__).parents[1] / "__main__.py"
    return shlex.join(["selfexplain", *argv[1:]]) if ours else None


def version(package: str) -> str:
    """Version of an installed package; "unknown" where it runs from its sources alone."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # as with PYTHONPATH=src
        return "unknown"


def hardware(device: torch.device) -> str:
    """Name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit(folder: Path) -> str | None:
    """Commit of the git repository whose files a folder holds, "-dirty" if changed; else None.

    An environment within a repository that is not its own holds none of that one's files.
    """
    if not _git(folder, "ls-files", "."):
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def _git(folder: Path, *words: str) -> str:
    """What git says of a folder; nothing where it fails, or is not installed."""
    try:
        return subprocess.run(  # noqa: S603 - fixed commands
            ["git", *words],  # noqa: S607 - the one that the user has
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


# The folder of a run or a comparison: whose it is, and that one process writes to it at a time.


LOCK = ".lock"
_MADE_WITH = "pass the options it was made with"
RECORDS = {
    "compare.json": "a comparison (compare.json)",
    "nas-study.json": "a study of searches (nas-study.json)",
    "searches.json": "several searches (searches.json)",
    "run.json": "a single run (run.json)",
}
"""File that tells what a folder holds -> what it is, for messages."""


@contextmanager
def locked(folder: Path, lock_timeout: float = 0.0) -> Iterator[None]:
    """Keep other runs out of a folder; the operating system frees it if the process dies.

    What killed processes left half-written in it is cleared away first. Of work that is broken off
    inside, it is said what is kept (`kept_said`).

    Args:
        folder: made if it does not exist.
        lock_timeout: seconds to wait for another process to leave it.

    Raises:
        InputError: another process writes to the folder.
        BrokenOffError: as `kept_said`.

    Example:
        >>> import tempfile
        >>> with locked(Path(tempfile.mkdtemp())):
        ...     pass
    """
    if not first_process():  # the first process of a run holds the lock for all of them
        with kept_said(folder):
            yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / LOCK).acquire(timeout=lock_timeout)
    except Timeout as error:
        raise InputError(
            f"another process is writing to {folder}; wait for it, or pass another --out"
        ) from error
    except (OSError, NotImplementedError) as error:  # a file system may know no locks
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{folder} cannot be written to ({reason}); pass another --out") from error
    with held:
        clear_leftovers(folder)
        with kept_said(folder):
            yield


@contextmanager
def kept_said(folder: Path) -> Iterator[None]:
    """When work is broken off by a full disk or a lost process, say what is kept."""
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
    """Reserve a folder for this run once it is free; all of its processes wait.

    For a folder that several runs share. The lock is a file next to it, so that a run inside may
    still lock the folder itself.
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


def claim_folder(config: Any) -> str:
    """Check that a run's folder is free, or holds this very run; return the run's identity.

    Args:
        config: a dataclass with `out` and `resume`.

    Raises:
        InputError: the folder holds another run, or this one and `resume` is off.
    """
    return claim(config.out, to_dict(config, leave_out=("out", "resume")), resume=config.resume)


def claim(folder: Path, config: dict[str, Any], *, resume: bool) -> str:
    """The same of a configuration as `run.json` holds it."""
    if holds_run(folder):
        old = saved_config(folder / "run.json")
        check_written_alike(old, config, folder)
        check_same_config(
            old,
            config,
            folder,
            remedy=_MADE_WITH if resume else f"{_MADE_WITH} and --resume",
        )
        if not resume:
            raise InputError(
                f"{folder} holds this run already; pass --resume to continue it, or another --out"
            )
    else:
        check_free(folder)
    return json.dumps(config, sort_keys=True)


def check_written_alike(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """Raise InputError if a recorder has written one configuration, and a command the other.

    Example:
        >>> check_written_alike({"recorder": True}, {}, Path("runs/mine"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: runs/mine holds a run that a recorder has written; pass ...
    """
    if bool(old.get("recorder")) != bool(new.get("recorder")):
        whose = "a" if old.get("recorder") else "no"
        raise InputError(
            f"{folder} holds a run that {whose} recorder has written; pass another --out"
        )


def holds_run(folder: Path) -> bool:
    """Whether a folder holds at least one epoch of a run, or its result."""
    return any((folder / name).exists() for name in ("checkpoint.pt", "result.json"))


def claim_comparison(config: CompareConfig) -> None:
    """Check that a folder is free, or holds this comparison, to which runs may be added.

    Raises:
        InputError: the folder holds something else.
    """
    # Each run checks the options of its own objective.
    claim_several(config, "compare.json", addable=("objectives", "seeds", "options"))


def claim_several(config: Any, name: str, *, addable: Sequence[str]) -> None:
    """Check that a folder is free, or holds these runs, to which others may be added.

    Args:
        config: a dataclass with `out`.
        name: of the file that tells the configuration of them all.
        addable: fields that may be others than there.

    Raises:
        InputError: the folder holds something else.
    """
    path, free = config.out / name, ("out", *addable)
    if path.exists():
        old = {k: v for k, v in saved_config(path).items() if k not in free}
        check_same_config(old, to_dict(config, leave_out=free), config.out)
    else:
        check_free(config.out)


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
        "nas-study.json",
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
        "photograph.png",
    }
    files = {path.name for path in folder.iterdir()} if folder.exists() else set()
    # Names that begin with a dot are locks and files that are being written.
    if any(name not in leavings and not name.startswith(".") for name in files):
        held = [what for name, what in RECORDS.items() if name in files]
        if held:
            raise InputError(
                f"{folder} holds {held[0]}, which this command cannot continue; pass another --out"
            )
        raise InputError(f"{folder} is not empty but contains no run; pass another --out")


def saved_config(path: Path) -> dict[str, Any]:
    """The configuration in a `run.json` or `compare.json`."""
    config = read_json(path).get("config")
    if not isinstance(config, dict):
        raise InputError(f"{path} contains no configuration; delete it, or pass another folder")
    return config


def check_same_config(
    old: dict[str, Any], new: dict[str, Any], folder: Path, remedy: str = _MADE_WITH
) -> None:
    """Raise InputError that names the first options in which two configurations differ."""
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


# What a run writes into its folder besides what it learns.


def write_config(name: str, config: Any, environment: dict[str, object], **more: object) -> None:
    """Write what a folder holds: `run.json` of a training or search, `compare.json` of several."""
    saved = to_dict(config, leave_out=("out", "resume"))
    _write_saved(config.out / name, saved, environment, **more)


def _write_saved(
    path: Path, config: dict[str, Any], environment: dict[str, object], **more: object
) -> None:
    write_record(path, {"schema": 1, "config": config, "environment": environment, **more})


def write_run(
    config: Any, images: dict[str, object], device: torch.device, processes: int = 1
) -> None:
    """Write `run.json`: configuration, environment, and properties of the images."""
    saved = to_dict(config, leave_out=("out", "resume"))
    write_saved_run(config.out, saved, images, device, processes)


def write_saved_run(
    folder: Path,
    config: dict[str, Any],
    images: dict[str, object],
    device: torch.device,
    processes: int = 1,
) -> None:
    """The same of a configuration as `run.json` holds it."""
    around = {**environment(device), "processes": processes}
    _write_saved(folder / "run.json", config, around, images=images)


def images_of(prepared: Prepared) -> dict[str, object]:
    """What it takes to prepare an image for a trained model, and how many there were."""
    return {
        "class_names": list(prepared.class_names),
        "shape": list(prepared.train.shape_CHW),
        "mean": prepared.mean_C.tolist(),
        "std": prepared.std_C.tolist(),
        "train": len(prepared.train),
        "scored": len(prepared.scored),
        # Only where there is something to say: most images have 8 bits.
        **({} if prepared.ranges == Ranges() else {"ranges": asdict(prepared.ranges)}),
    }


def write_outcome(
    folder: Path, result: dict[str, Any], model: nn.Module, logits_NK: Tensor, labels_N: Tensor
) -> dict[str, Any]:
    """Write the model, what it says of the scored images, and last the result: the run is done.

    The result then holds the digests of both files too, and is returned.
    """
    predictions = {"logits": logits_NK, "labels": labels_N}
    files = {"predictions.safetensors": predictions, "model.safetensors": model.state_dict()}
    digests = {name: write_tensors(folder / name, tensors) for name, tensors in files.items()}
    result = {**result, "digests": digests}
    write_record(folder / "result.json", result)
    return result


def best_epoch(folder: Path) -> dict[str, float]:
    """Number, accuracy and NLL of the epoch with the highest accuracy; if tied, the lowest NLL."""
    rows = [row for row in EpochLog(folder).read() if {"accuracy", "nll"} <= row.keys()]
    best = max(rows, key=lambda row: (row["accuracy"], -row["nll"]))
    return {f"best_{name}": best[name] for name in ("epoch", "accuracy", "nll")}


def median_step_seconds(folder: Path) -> float:
    """Seconds of a training step, the median of the epochs' means in `metrics.jsonl`."""
    log = EpochLog(folder)
    values = [record.get("step_seconds") for record in log.read()]
    seconds = [value for value in values if isinstance(value, float)]
    if not seconds:
        raise InputError(
            f"{log.path} is missing or has no time per step (step_seconds); put it "
            f"back, or delete {folder / 'checkpoint.pt'} to train this run again"
        )
    return statistics.median(seconds)


FINISHED = {
    **TRAINED,
    "images": {**IMAGES, **{name: IMAGES[f"{name}?"] for name in ("shape", "mean", "std")}},
}
"""The shape of a `run.json` that says what its images are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """What `run.json` of a finished run says."""

    folder: Path
    config: dict[str, Any]
    class_names: tuple[str, ...]
    shape_CHW: tuple[int, int, int]
    mean_C: Tensor
    std_C: Tensor
    digest: str | None = None
    """Of the weights, as `digest_of` makes it; None where none was kept."""
    ranges: Ranges | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)


def read_finished(folder: Path) -> FinishedRun:
    """Read the record of a finished run of `train`, `retrain` or `compare`.

    Raises:
        InputError: the folder holds no finished run, or its record cannot be read.

    Example:
        >>> read_finished(Path("absent"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: absent contains no finished run; pass a folder with ...
    """
    if not (folder / "model.safetensors").exists():
        raise InputError(
            f"{folder} contains no finished run; pass a folder with run.json and model.safetensors"
        )
    path = folder / "run.json"
    run = read_json(path, FINISHED)
    digest = kept_digest(folder, "model.safetensors")
    return finished_run(path, run["config"], run["images"], digest)


def finished_run(
    path: Path, config: dict[str, Any], images: Mapping[str, Any], digest: str | None
) -> FinishedRun:
    """What a record, which lies next to the weights, says of a model, if its parts fit.

    Class names, shape, mean and std in `images` are checked against each other; the digest is that
    of the weights.
    """
    check_model_of(config, path)
    channels, height, width = images["shape"]
    lengths_agree(path, mean=images["mean"], std=images["std"], channels=[0] * channels)
    return FinishedRun(
        folder=path.parent,
        config=config,
        class_names=tuple(printable(images["class_names"])),
        shape_CHW=(channels, height, width),
        mean_C=torch.tensor(images["mean"], dtype=torch.float32),
        std_C=torch.tensor(images["std"], dtype=torch.float32),
        digest=digest,
        ranges=Ranges.recorded(images.get("ranges")),
    )


def kept_digest(folder: Path, name: str) -> str | None:
    """The digest of a file's tensors according to `result.json`; None if it has none."""
    path = folder / "result.json"
    digests = read_json(path).get("digests") if path.exists() else None
    digest = digests.get(name) if isinstance(digests, dict) else None
    return None if digest is None else str(digest)


def check_tensors(folder: Path) -> None:
    """Check what a finished run has left besides its result; deleted files are not missed.

    Raises:
        InputError: a file of tensors is damaged, or the result cannot be read.
    """
    for name in ("predictions.safetensors", "model.safetensors"):
        if (folder / name).exists():
            read_tensors(
                folder / name, digest=kept_digest(folder, name), remedy=_write_again(folder)
            )


def weight_shapes(run: FinishedRun) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of a finished run, by name."""
    return tensor_shapes(run.folder / "model.safetensors", remedy=_remedy(run))


def load_weights(model: nn.Module, run: FinishedRun) -> None:
    """Give a model the weights of a finished run.

    Raises:
        InputError: they cannot be read, are damaged, or are of another model.
    """
    path = run.folder / "model.safetensors"
    with loading_from(path):
        model.load_state_dict(read_tensors(path, digest=run.digest, remedy=_remedy(run)))


def _remedy(run: FinishedRun) -> str:
    """What to do if the weights of a run, or those that were exported, are damaged."""
    exported = not (run.folder / "run.json").exists()
    return "export it, or download it, again" if exported else _write_again(run.folder)


def _write_again(folder: Path) -> str:
    """How to write the files of a finished run again."""
    return (
        f"delete {folder / 'result.json'} and run the command that made it again (train and "
        "retrain with --resume) to write it anew from the checkpoint"
    )
