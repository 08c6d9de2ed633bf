"""Checkpoints that are written whole or not at all, and read without running code."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import torch
from torch.serialization import get_crc32_options, set_crc32_options

from selfexplain.errors import InputError, first_line
from selfexplain.files import atomic_file

FORMAT = 1
"""Of the checkpoints that are written, which hold it as `format`."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers and strings, atomically, with the checksums that loading looks at."""
    checksums = get_crc32_options()  # a program that imports us may have turned them off
    set_crc32_options(True)
    try:
        with atomic_file(path) as file:
            torch.save(state, file)
    finally:
        set_crc32_options(checksums)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load what `save_checkpoint` wrote, onto the CPU, tensors and plain values only.

    Raises:
        InputError: the file is missing, truncated or damaged, or holds more than data.
    """
    try:
        with path.open("rb") as file:
            _verify(file, path)
            file.seek(0)
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint {path}; pass the folder of a run") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(
            f"the checkpoint {path} cannot be read ({first_line(error)[:120]}); it is truncated or "
            "not a checkpoint of selfexplain: delete it to start this run again"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"the checkpoint {path} contains no run; pass the folder of a run")
    return state


def _verify(file: BinaryIO, path: Path) -> None:
    """Raise InputError unless the parts of a checkpoint match their checksums.

    PyTorch looks at none of them. The file is read once, in pieces.
    """
    try:
        with ZipFile(file) as archive:
            damaged = archive.testzip()
        wrong = None if damaged is None else f"the checksum of its part {damaged} does not match"
    except Exception as error:  # a damaged archive may say anything of itself
        wrong = first_line(error)[:120]
    if wrong is not None:
        raise InputError(
            f"the checkpoint {path} is damaged ({wrong}), truncated or not a checkpoint of "
            "selfexplain: delete it to start this run again"
        )


def check_format(state: dict[str, Any], path: Path) -> None:
    """Raise InputError unless a checkpoint is of the format that is written."""
    if state.get("format") != FORMAT:
        raise InputError(
            f"the checkpoint {path} has format {state.get('format')!r}, not {FORMAT}; it is not "
            "one of this version of selfexplain: delete it to start this run again"
        )


def check_identity(state: dict[str, Any], identity: str, path: Path) -> None:
    """Raise InputError unless a checkpoint is of this format and of this configuration."""
    check_format(state, path)
    if state.get("identity") != identity:
        raise InputError(
            f"the checkpoint {path} is of another configuration; pass the options it was made "
            "with, or another --out"
        )


@contextmanager
def loading_from(path: Path) -> Iterator[None]:
    r"""Say in one sentence that what a file holds does not fit what it is loaded into.

    Raises:
        InputError: loading it raised anything but a lack of memory.

    Example:
        >>> from torch import nn
        >>> with loading_from(Path("checkpoint.pt")):
        ...     _ = nn.Linear(2, 3).load_state_dict(nn.Linear(2, 4).state_dict())
        Traceback (most recent call last):
        ...
        selfexplain.errors.InputError: checkpoint.pt cannot be loaded (size mismatch for weight: ...
    """
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged file may hold anything in place of anything
        raise InputError(
            f"{path} cannot be loaded ({_misfit(error)}); it is damaged, or of a model whose code "
            "has changed: put the code back as it was, or train again with another --out"
        ) from error


def epochs_done(state: dict[str, Any]) -> int:
    """The number of epochs that a checkpoint was made after."""
    done = state["epochs_done"]
    if not isinstance(done, int):
        raise TypeError(f"epochs_done is {done!r}, not a whole number")
    return done


def epochs_kept(path: Path) -> int | None:
    """The number of epochs that the checkpoint in a file was made after; None if there is none."""
    try:  # without reading the tensors
        return epochs_done(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except Exception:  # a damaged one keeps nothing, whatever it ends in
        return None


def _misfit(error: Exception) -> str:
    """What does not fit, in a few words."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, RuntimeError) and "\n" in str(error):
        # torch says which class it loads into in the first line, and what is wrong below it.
        return str(error).splitlines()[1].strip()[:200]
    return first_line(error)[:200]
