"""JSON and tensors in files: written whole or not at all, and checked when they are read.

Without torch until tensors are asked for: the command line writes and refuses with it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

from selfexplain.errors import InputError, WriteError, first_line
from selfexplain.records import checked, parse_json, read_text

if TYPE_CHECKING:
    from torch import Tensor


# Files that are written whole or not at all, and what is said of one that cannot be written.


REMEDIES = {
    errno.ENOSPC: "make room on that disk, or ",
    errno.EDQUOT: "make room within your quota, or ",
    errno.EFBIG: "allow larger files (ulimit -f), or ",
    errno.EROFS: "",
    errno.EACCES: "",
    errno.EPERM: "",
    errno.EIO: "look after that disk, or ",
}
"""What the system says of a place that takes no more -> what to do, but for another place."""
PARTIAL = re.compile(r"\.(.+)\.\d+\.partial", re.DOTALL)
"""Names of files that are being written, or were when their process was killed."""
LONGEST = 50
"""Characters of a file's name that stand in that of its partial: names end at 255 bytes."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write such that a reader, or a crash, sees the old content or the new.

    What a killed process left of the same file is cleared away.

    Raises:
        WriteError: the file cannot be written; what it held before is kept.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_file(path) as file:
        ...     _ = file.write(b"whole")
        >>> path.read_bytes()
        b'whole'
    """
    shown = path.name[-LONGEST:]
    partial = path.with_name(f".{shown}.{os.getpid()}.partial")
    with _said_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent, shown)
        raw = _opened(partial)
    file = io.BufferedWriter(raw)
    try:
        try:
            yield file
        except Exception as error:
            if raw.error is None:
                raise
            # Libraries that write say what they make of it, not what the system said.
            raise cannot_write(path, raw.error) from error
        with _said_of(path):
            if raw.error is not None:  # whoever wrote has passed over it
                raise raw.error
            file.flush()
            os.fsync(raw.fileno())
            if sys.platform == "win32":  # which renames no open file
                file.close()
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        with suppress(OSError):  # closing tries to write the rest again
            file.close()


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes left half-written, of one file or all below the folder."""
    for place, folders, files in os.walk(folder):
        for file in files:
            found = PARTIAL.fullmatch(file)
            if found and name in (None, found[1]):
                _delete_unless_held(Path(place, file))
        if name is not None:
            folders.clear()


def cannot_write(path: Path | str, error: OSError) -> WriteError:
    """The error for a file that cannot be written.

    Example:
        >>> print(cannot_write(Path("a.json"), OSError(errno.ENOSPC, "No space left on device")))
        a.json cannot be written (No space left on device); make room on that disk, or pass ...
    """
    reason = error.strerror or first_line(error)
    return WriteError(
        f"{path} cannot be written ({reason}); {REMEDIES.get(error.errno or 0, '')}pass another "
        "--out"
    )


@contextmanager
def no_room_said() -> Iterator[None]:
    """Turn any OSError about a full disk, a quota, or a permission into one sentence.

    Raises:
        WriteError: in place of an OSError of the kinds in `REMEDIES`, and of what PyTorch makes of
            a full disk.

    Example:
        >>> with no_room_said():
        ...     raise OSError(errno.ENOSPC, "No space left on device", "events")
        Traceback (most recent call last):
        selfexplain.errors.WriteError: events cannot be written (No space left on device); ...
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        if error.errno in (errno.EACCES, errno.EPERM, errno.EIO):  # reading may end in these too
            told = f"{error.filename or 'a file'} cannot be read or written ({error.strerror})"
            raise WriteError(f"{told}; pass another path, or put that right") from error
        raise cannot_write(error.filename or "a file, or the output,", error) from error
    except RuntimeError as error:  # PyTorch says so of memory that its processes share
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise cannot_write("a file, or what processes share in /dev/shm,", full) from error


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


class _Watched(io.FileIO):
    """A file that remembers what went wrong when it was written to."""

    error: OSError | None = None

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _opened(partial: Path) -> _Watched:
    """Open a file to write and hold it, so that others see that its writer is alive."""
    while True:
        raw = _Watched(partial, "wb")
        _hold(raw.fileno())
        # Another process may have taken it for a leftover just before it was held.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(raw.fileno()), partial.stat()):
                return raw
        raw.close()


def _hold(descriptor: int) -> bool:
    """Hold an open file; False if another process does, or if that cannot be known."""
    if sys.platform == "win32":
        return True  # an open file cannot be deleted there
    import fcntl  # which Windows lacks

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _delete_unless_held(path: Path) -> None:
    """Delete a file that nobody holds; one that cannot be opened or deleted stays."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            if _hold(descriptor):
                path.unlink()
        finally:
            os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    r"""Write a value as indented JSON, atomically; NaN and infinity are refused.

    `write_record` is for what must be noticed when it is damaged.

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


DIGEST = "sha256"
"""Where something that was written says what it must hold: a field of JSON, or of metadata."""


def sealed(
    record: Mapping[str, Any], default: Callable[[Any], Any] | None = None
) -> dict[str, Any]:
    """A record as JSON, followed by a digest of everything in it.

    Args:
        record: an object.
        default: as for `json.dumps`: what becomes of values that JSON does not have.

    Example:
        >>> record = sealed({"loss": 0.83})
        >>> damaged = record | {"loss": 0.93}
        >>> is_whole(record), is_whole(damaged), is_whole({"loss": 0.93})
        (True, False, True)
    """
    plain = json.loads(json.dumps(record, default=default))
    return {**plain, DIGEST: _digest(plain)}


def is_whole(record: Mapping[str, Any]) -> bool:
    """Whether a record matches its digest; one without a digest is trusted."""
    return bool(record.get(DIGEST, kept := _digest(record)) == kept)


def unsealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its digest, if it has any."""
    return {name: value for name, value in record.items() if name != DIGEST}


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of what a record says, in whatever order and layout."""
    return hashlib.sha256(json.dumps(unsealed(record), sort_keys=True).encode()).hexdigest()


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write an object as JSON, atomically, with a digest of all that stands in it.

    `read_json` checks the digest and leaves it out.

    Raises:
        WriteError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.json"
        >>> write_record(path, {"mean": [0.25]}); read_json(path)
        {'mean': [0.25]}
        >>> _ = path.write_text(path.read_text().replace("0.25", "0.26")); read_json(path)
        Traceback (most recent call last):
        selfexplain.errors.InputError: ... is damaged: what it holds does not match the SHA-256 ...
    """
    write_json(path, sealed(record, default=str))


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors: of their names, dtypes, shapes and bytes, in order of name."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensor_bytes(tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """Named tensors, from any device, as the content of a safetensors file; and their digest."""
    from safetensors.torch import save

    # Each in memory of its own, as safetensors wants them.
    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    digest = digest_of(own)
    return save(own, metadata={DIGEST: digest}), digest


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write named tensors as safetensors, atomically, from any device; return their digest.

    Raises:
        WriteError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> _ = write_tensors(path, {"a": torch.tensor([1, 2])}); read_tensors(path)
        {'a': tensor([1, 2])}
    """
    content, digest = tensor_bytes(tensors)
    with atomic_file(path) as file:
        file.write(content)
    return digest


def read_tensors(
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
        >>> read_tensors(Path("absent.safetensors"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: absent.safetensors cannot be read (No such file ...
    """
    with _opened_tensors(path, remedy) as file:
        kept = (file.metadata() or {}).get(DIGEST)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = {one for one in (kept, digest) if one is not None}
    if expected and expected != {digest_of(tensors)}:
        raise InputError(
            f"{path} cannot be read (it is damaged: what it holds does not match the SHA-256 "
            f"digest kept of it); {remedy}"
        )
    return tensors


def tensor_shapes(path: Path, *, remedy: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file, which are not read themselves."""
    with _opened_tensors(path, remedy) as file:
        names = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


@contextmanager
def _opened_tensors(path: Path, remedy: str) -> Iterator[Any]:
    """Open a safetensors file; turn every failure into one sentence."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.exists() and not path.is_file():  # a fifo may never end
            raise InputError(f"{path} is not a file; {remedy}")
        with safe_open(path, framework="pt") as file:
            yield file
    # What a damaged header asks for may be more memory than there is, or no shape at all.
    except (SafetensorError, OSError, RuntimeError, ValueError, MemoryError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)[:200]}); {remedy}") from error


def read_json(path: Path, shape: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: of the file.
        shape: that the object must have, see `records`; None for any.

    Raises:
        InputError: the file is missing, is not a JSON object, not of the shape, or other than its
            digest says.

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
    if not is_whole(value):
        raise InputError(
            f"{path} is damaged: what it holds does not match the SHA-256 digest in it; put "
            f"the file back as it was, or delete its line {DIGEST} if you have changed it yourself"
        )
    return unsealed(value)


def read_shaped(
    path: Path,
    shapes: Mapping[str, str],
    sizes: Mapping[str, int] = MappingProxyType({}),
    *,
    digest: str | None = None,
) -> dict[str, Tensor]:
    """Read named tensors from a safetensors file, each of a kind and a shape.

    Args:
        path: of the file.
        shapes: name -> kind (float, int or uint8) and a letter for each dimension: "float NK".
            Dimensions of one letter are of one size, in all tensors. Floats come as float32 and
            must be finite.
        digest: as for `read_tensors`.
        sizes: of letters, as far as they are known.

    Raises:
        InputError: the file cannot be read, or a tensor is missing or another; names file and
            tensor.

    Example:
        >>> import tempfile
        >>> import torch
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> _ = write_tensors(path, {"a": torch.tensor([1, 2])})
        >>> read_shaped(path, {"a": "int N"}, {"N": 3})
        Traceback (most recent call last):
        selfexplain.errors.InputError: ... is damaged: a is int64 of shape (2,), and must be ...
    """
    found, known = read_tensors(path, digest=digest), dict(sizes)
    found = {n: t.float() if t.is_floating_point() else t for n, t in found.items()}
    for name, wanted in shapes.items():
        problem = "is missing" if name not in found else _misfit(found[name], wanted, known)
        if problem:
            raise InputError(
                f"{path} is damaged: {name} {problem}; put it back as it was, or delete it to do "
                "without"
            )
    return {name: found[name] for name in shapes}


def _misfit(tensor: Tensor, wanted: str, sizes: dict[str, int]) -> str:
    """What a tensor is and what it must be; empty if it fits. Sizes of new letters are kept."""
    import torch

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


# Names of files.


def shortened(name: str, most: int = 220) -> str:
    """A file's name of at most this many bytes; a hash distinguishes what is cut off.

    Room is left below the 255 bytes of file systems for what locks and files that are being
    written add to a name.

    Example:
        >>> shortened("short"), len(shortened("a" * 300).encode())
        ('short', 220)
    """
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) <= most:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:12]
    kept = raw[: most - len(digest) - 1].decode("utf-8", "ignore")
    return f"{kept}-{digest}"
