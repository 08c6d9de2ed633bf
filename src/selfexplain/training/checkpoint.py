"""Checkpoints that are written whole or not at all, and read without running code."""

import pickle
from pathlib import Path
from typing import Any

import torch

from selfexplain.errors import InputError
from selfexplain.training.files import atomic_file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers and strings, atomically.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint.pt"
        >>> save_checkpoint(path, {"epoch": 3}); load_checkpoint(path)
        {'epoch': 3}
    """
    with atomic_file(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load what `save_checkpoint` wrote, onto the CPU, tensors and plain values only.

    Raises:
        InputError: the file is missing, truncated, or holds more than data.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint {path}; pass the folder of a run") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the checkpoint {path} cannot be read ({reason[:120]}); it is truncated or not a "
            "checkpoint of selfexplain: delete it to start this run again"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"the checkpoint {path} holds no run; pass the folder of a run")
    return state
