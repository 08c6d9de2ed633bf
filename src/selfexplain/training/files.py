"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from selfexplain.errors import InputError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write such that a reader, or a crash, sees the old content or the new.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_file(path) as file:
        ...     _ = file.write(b"whole")
        >>> path.read_bytes()
        b'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    r"""Write a value as indented JSON, atomically; NaN and infinity are refused.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(path, {"a": 1}); path.read_text()
        '{\n  "a": 1\n}\n'
    """
    text = json.dumps(value, indent=2, allow_nan=False, default=str) + "\n"
    with atomic_file(path) as file:
        file.write(text.encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, atomically, from any device.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from safetensors.torch import load_file
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> write_tensors(path, {"a": torch.tensor([1, 2])}); load_file(path)
        {'a': tensor([1, 2])}
    """
    # Each in memory of its own, as safetensors wants them.
    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with atomic_file(path) as file:
        file.write(safetensors_bytes(own))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing or is not a JSON object.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(path, {"a": 1}); read_json(path)
        {'a': 1}
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; pass the folder of a run") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); delete it to start again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, not an object; delete it")
    return value
