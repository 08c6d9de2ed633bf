"""Files that are written whole or not at all, and what is said of one that cannot be written."""

import errno
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from selfexplain.errors import WriteError, first_line

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
    """Delete what killed processes left half-written; what a live one writes stays.

    Args:
        folder: to look in.
        name: of the file whose leftovers are meant; None for all files, here and in folders below.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / ".checkpoint.pt.1.partial").write_bytes(b"half")
        >>> clear_leftovers(folder); list(folder.iterdir())
        []
    """
    for place, folders, files in os.walk(folder):
        for file in files:
            found = PARTIAL.fullmatch(file)
            if found and name in (None, found[1]):
                _delete_unless_held(Path(place, file))
        if name is not None:
            folders.clear()


def cannot_write(path: Path | str, error: OSError) -> WriteError:
    """What to raise of a file that cannot be written.

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
    """Say in one sentence what anybody's OSError says of a full disk, a quota, or a permission.

    Raises:
        WriteError: in place of an OSError of the kinds in `REMEDIES`, and of what PyTorch makes of
            a full disk.

    Example:
        >>> with no_room_said():
        ...     raise OSError(errno.ENOSPC, "No space left on device", "/tmp/events")
        Traceback (most recent call last):
        selfexplain.errors.WriteError: /tmp/events cannot be written (No space left on device); ...
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
