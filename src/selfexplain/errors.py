"""The one exception that means "the user can put this right"."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Input that cannot be used, said in one sentence: what was wrong and what to pass instead.

    The command line prints the sentence without a traceback and exits with code 2. It is no
    ValueError, which the command line's parser would take for its own and print as a box.

    Example:
        >>> raise InputError("epochs is 0; pass a number of at least 1")
        Traceback (most recent call last):
        ...
        selfexplain.errors.InputError: epochs is 0; pass a number of at least 1
    """

    exit_code = 2
    """Of a program that ends with it."""


class OutOfMemoryError(InputError):
    """The machine is short of something just now, which may be there later: sweeps try again.

    Example:
        >>> issubclass(OutOfMemoryError, InputError)
        True
    """


class BrokenOffError(InputError):
    """Work was broken off by what its input is not to blame for.

    Attributes:
        kept: what of the work so far is not lost; None as long as nobody has said.

    Example:
        >>> error = BrokenOffError("the power failed")
        >>> error.kept = "the checkpoint of epoch 3 is kept"
        >>> print(error)
        the power failed; the checkpoint of epoch 3 is kept
    """

    kept: str | None = None

    def __str__(self) -> str:
        """The sentence, with what is kept."""
        said = super().__str__()
        return said if self.kept is None else f"{said}; {self.kept}"


class WriteError(BrokenOffError):
    """A file cannot be written: the disk is full, or the like.

    Example:
        >>> issubclass(WriteError, InputError)
        True
    """


class LostProcessError(BrokenOffError):
    """Another of the processes that run together has ended before its time."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    r"""What an error says, in one line; its type if it says nothing.

    Example:
        >>> first_line(ValueError("one\ntwo")), first_line(AssertionError())
        ('one', 'AssertionError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]


def import_failure(error: BaseException, what: str, packages: str, install: str) -> InputError:
    """Say why an optional package cannot be used: it is missing, or it is there and broken.

    Args:
        error: what the import raised.
        what: needs the package.
        packages: that were imported, with spaces between; the first gives the sentence its name.
        install: what to do if they are missing.

    Example:
        >>> missing = ModuleNotFoundError("No module named 'ray'", name="ray")
        >>> print(import_failure(missing, "--cluster ray", "ray", "pip install ray"))
        --cluster ray needs the package ray, which is not installed; pip install ray
        >>> print(import_failure(ImportError("libc: no"), "--cluster ray", "ray", ""))
        --cluster ray needs the package ray, which is installed but does not import (ImportError...
    """
    names = packages.split()
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and name in names:
        return InputError(f"{what} needs the package {name}, which is not installed; {install}")
    first = error
    while (before := first.__cause__ or first.__context__) is not None:
        first = before
    return InputError(
        f"{what} needs the package {names[0]}, which is installed but does not import "
        f"({type(first).__name__}: {first_line(first)}); repair what that names"
    )


@contextmanager
def exit_on_bad_input(program: str) -> Iterator[None]:
    """End a program on bad input: one sentence on stderr, its exit code (2), no traceback.

    Args:
        program: the name that the sentence begins with.

    Example:
        >>> with exit_on_bad_input("selfexplain"):
        ...     pass
    """
    try:
        yield
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
