"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.records import checked, parse_json, read_text


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


def read_json(path: Path, shape: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: of the file.
        shape: that the object must have, see `records`; None for any.

    Raises:
        InputError: the file is missing, is not a JSON object, or not of the shape.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(path, {"a": 1}); read_json(path)
        {'a': 1}
    """
    try:
        value = parse_json(read_text(path, "pass the folder of a run"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); delete it to start again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, not an object; delete it")
    checked(value, shape, path, "put the file back as it was, or delete it")
    return value


def read_tensors(path: Path, shapes: Mapping[str, str], **sizes: int) -> dict[str, Tensor]:
    """Read named tensors from a safetensors file, each of a kind and a shape.

    Args:
        path: of the file.
        shapes: name -> kind (float, int or uint8) and a letter for each dimension: "float NK".
            Dimensions of one letter are of one size, in all tensors. Floats come as float32 and
            must be finite.
        sizes: of letters, as far as they are known.

    Raises:
        InputError: the file cannot be read, or a tensor is missing or another; names file and
            tensor.

    Example:
        >>> import tempfile
        >>> import torch
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> write_tensors(path, {"a": torch.tensor([1, 2])})
        >>> read_tensors(path, {"a": "int N"}, N=3)
        Traceback (most recent call last):
        selfexplain.errors.InputError: ... is damaged: a is int64 of shape (2,), and must be ...
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} is no file; delete it to do without")
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it to do without") from error
    found = {n: t.float() if t.is_floating_point() else t for n, t in found.items()}
    for name, wanted in shapes.items():
        problem = "is missing" if name not in found else _misfit(found[name], wanted, sizes)
        if problem:
            raise InputError(
                f"{path} is damaged: {name} {problem}; put it back as it was, or delete it to do "
                "without"
            )
    return {name: found[name] for name in shapes}


def _misfit(tensor: Tensor, wanted: str, sizes: dict[str, int]) -> str:
    """What a tensor is and must be; empty if it is that. Sizes of new letters are kept."""
    kind, letters = wanted.split(" ")
    right = {
        "float": tensor.is_floating_point(),
        "int": tensor.dtype == torch.int64,
        "uint8": tensor.dtype == torch.uint8,
    }[kind]
    shape = tuple(tensor.shape)
    known = dict(sizes)
    if not right or len(shape) != len(letters) or 0 in shape:
        right = False
    elif all(known.setdefault(letter, n) == n for letter, n in zip(letters, shape, strict=True)):
        sizes |= known
    else:
        right = False
    if not right:
        told = ", ".join(str(sizes.get(letter, letter)) for letter in letters)
        return f"is {str(tensor.dtype)[6:]} of shape {shape}, and must be {kind} ({told})"
    if kind == "float" and not bool(tensor.isfinite().all()):
        return "has values that are not finite"
    return ""
