"""JSON and tensors in files: written whole or not at all, and checked when they are read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from selfexplain.errors import InputError, first_line
from selfexplain.writing import atomic_file

DIGEST = "sha256"
"""Where a safetensors file of ours says, in its metadata, what its tensors must be."""


def write_json(path: Path, value: object) -> None:
    r"""Write a value as indented JSON, atomically; NaN and infinity are refused.

    Raises:
        WriteError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(path, {"a": 1}); path.read_text()
        '{\n  "a": 1\n}\n'
    """
    text = json.dumps(value, indent=2, allow_nan=False, default=str) + "\n"
    with atomic_file(path) as file:
        file.write(text.encode())


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors: of their names, dtypes, shapes and bytes, in order of name.

    Example:
        >>> digest_of({"a": torch.zeros(2)}) == digest_of({"a": torch.zeros(2, 1)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensor_bytes(tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """Named tensors, from any device, as the content of a safetensors file; and their digest.

    Example:
        >>> content, digest = tensor_bytes({"a": torch.tensor([1, 2])})
        >>> digest.encode() in content
        True
    """
    # Each in memory of its own, as safetensors wants them.
    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    digest = digest_of(own)
    return safetensors_bytes(own, metadata={DIGEST: digest}), digest


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write named tensors as safetensors, atomically, from any device; return their digest.

    Raises:
        WriteError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> _ = write_tensors(path, {"a": torch.tensor([1, 2])}); load_tensors(path)
        {'a': tensor([1, 2])}
    """
    content, digest = tensor_bytes(tensors)
    with atomic_file(path) as file:
        file.write(content)
    return digest


def load_tensors(
    path: Path, *, digest: str | None = None, remedy: str = "delete it to do without it"
) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU, if its tensors are those that were written.

    A file that says nothing of its digest, as those of other programs, is only read.

    Args:
        path: of the file.
        digest: what the tensors must be, where that is known from elsewhere; see `digest_of`.
        remedy: what to do if it is damaged.

    Raises:
        InputError: the file cannot be read, or is damaged.

    Example:
        >>> load_tensors(Path("absent.safetensors"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: absent.safetensors cannot be read (No such file ...
    """
    try:
        with safe_open(path, framework="pt") as file:
            kept = (file.metadata() or {}).get(DIGEST)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # What a damaged header asks for may be more memory than there is, or no shape at all.
    except (SafetensorError, OSError, RuntimeError, ValueError, MemoryError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)[:200]}); {remedy}") from error
    expected = {one for one in (kept, digest) if one is not None}
    if expected and expected != {digest_of(tensors)}:
        raise InputError(
            f"{path} cannot be read (it is damaged: what it holds does not match the SHA-256 "
            f"digest kept of it); {remedy}"
        )
    return tensors


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
