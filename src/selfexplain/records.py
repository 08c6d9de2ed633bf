"""The content of files from untrusted sources: strict JSON, and the shape of its values.

A shape is a class of values (`Number`, `Text`, ...), or a dictionary of field -> shape for an
object with at least these fields; a field whose name ends in a question mark may be missing.
"""

import json
import math
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfexplain.errors import InputError

DEEPEST = 100
"""Levels of lists and objects inside one another."""
LARGEST = 2**30
"""Bytes of a file that is read at once."""


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number within limits."""

    least: float = -1e30
    most: float = 1e30

    def __str__(self) -> str:
        if self.least == -self.most:
            return "a finite number"
        return f"a number from {self.least:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within limits.

    Example:
        >>> misfit(True, Whole(), "epoch")
        'epoch is True, and must be a whole number of at least 0'
    """

    least: int = 0
    most: int = 2**63 - 1

    def __str__(self) -> str:
        end = f" and at most {self.most}" if self.most < 2**63 - 1 else ""
        return f"a whole number of at least {self.least}{end}"


@dataclass(frozen=True, slots=True)
class Text:
    """A text; one of some, where they are named.

    Example:
        >>> misfit("c", Text(("a", "b")), "kind")
        "kind is 'c', and must be a text, one of a, b"
    """

    choices: Collection[str] = ()
    most: int = 100_000

    def __str__(self) -> str:
        return f"a text, one of {', '.join(self.choices)}" if self.choices else "a text"


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list whose items have one shape.

    Example:
        >>> misfit([1, -1], ListOf(Whole()), "seeds")
        'seeds[1] is -1, and must be a whole number of at least 0'
    """

    item: Any
    least: int = 0
    most: int = 10_000_000

    def __str__(self) -> str:
        if self.least == self.most:
            return f"a list of {self.least}"
        return f"a list of at least {self.least}" if self.least else "a list"


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object with any keys, whose values have one shape.

    Example:
        >>> misfit({"cell": None}, MapOf(Number()), "weights")
        'weights.cell is None, and must be a finite number'
    """

    value: Any
    least: int = 0
    most: int = 10_000_000

    def __str__(self) -> str:
        return f"an object of at least {self.least}" if self.least else "an object"


@dataclass(frozen=True, slots=True)
class Maybe:
    """A shape, or null.

    Example:
        >>> misfit(None, Maybe(Number()), "std") is None
        True
    """

    shape: Any

    def __str__(self) -> str:
        return f"{self.shape}, or null"


ANYTHING = None
"""The shape of what is not looked at."""


def misfit(value: Any, shape: Any, where: str = "") -> str | None:
    """What does not fit a shape, where it is and what it must be; None if all fits.

    Example:
        >>> misfit({"seed": "a"}, {"seed": Whole(), "note?": Text()}, "config")
        "config.seed is 'a', and must be a whole number of at least 0"
    """
    match shape:
        case None:
            return None
        case Maybe():
            return None if value is None else misfit(value, shape.shape, where)
        case ListOf() if isinstance(value, list) and shape.least <= len(value) <= shape.most:
            parts = ((item, shape.item, f"{where}[{i}]") for i, item in enumerate(value))
        case MapOf() if isinstance(value, dict) and shape.least <= len(value) <= shape.most:
            parts = ((v, shape.value, _inside(where, k)) for k, v in value.items())
        case dict() if isinstance(value, dict):
            return _misfit_of_fields(value, shape, where)
        case Number() | Whole() | Text() | Flag() if _fits(value, shape):
            return None
        case _:
            wanted = "an object" if isinstance(shape, dict) else str(shape)
            return f"{where or 'it'} is {_shown(value)}, and must be {wanted}"
    return next((found for part in parts if (found := misfit(*part))), None)


def _misfit_of_fields(value: dict[str, Any], shape: Mapping[str, Any], where: str) -> str | None:
    for name, inner in shape.items():
        field = name.removesuffix("?")
        if field in value:
            if found := misfit(value[field], inner, _inside(where, field)):
                return found
        elif field == name:
            return f"{_inside(where, field)} is missing"
    return None


def _fits(value: Any, shape: Number | Whole | Text | Flag) -> bool:
    match shape:
        case Flag():
            return isinstance(value, bool)
        case Text():
            return (
                isinstance(value, str)
                and len(value) <= shape.most
                and (not shape.choices or value in shape.choices)
            )
        case Whole():
            right = isinstance(value, int)
        case Number():
            right = isinstance(value, int | float) and (
                isinstance(value, int) or math.isfinite(value)
            )
    return right and not isinstance(value, bool) and shape.least <= value <= shape.most


def _inside(where: str, name: str) -> str:
    name = name if len(name) <= 60 else name[:57] + "..."
    return escaped(f"{where}.{name}" if where else name)


def _shown(value: Any) -> str:
    """A value in a few words."""
    match value:
        case dict() | list():
            return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
        case str():
            return escaped(repr(value if len(value) <= 60 else value[:57] + "..."))
    return str(value)  # whole numbers of a record have few digits


def escaped(text: str) -> str:
    r"""A text that can be written as UTF-8.

    Example:
        >>> escaped("caf\udce9")
        'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def quoted(text: str) -> str:
    r"""A text as a message shows it: in quotes, the first 60 letters of it.

    Example:
        >>> quoted("caf\udce9")
        "'caf\\udce9'"
    """
    return escaped(repr(text if len(text) <= 60 else text[:57] + "..."))


def printable(value: Any) -> Any:
    r"""A value whose texts can be written as UTF-8: what cannot be is escaped.

    Example:
        >>> printable(["caf\udce9"])
        ['caf\\udce9']
    """
    match value:
        case str():
            return escaped(value)
        case list():
            return [printable(item) for item in value]
        case dict():
            return {escaped(k): printable(v) for k, v in value.items()}
    return value


def parse_json(text: str, *, finite: bool = True) -> Any:
    """What a JSON text holds; strictly, since duplicate keys or non-numbers mean damage.

    Args:
        text: of the file.
        finite: refuse NaN and Infinity, which JSON does not have and Python writes.

    Raises:
        ValueError: the text is not JSON, or of a depth or with numbers that nobody writes; the
            message says which, in a few words.

    Example:
        >>> parse_json('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: the key 'a' appears twice
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_float if finite else float,
            parse_constant=_float if finite else float,
        )
        deep = _depth(value) > DEEPEST
    except RecursionError:
        deep = True
    if deep:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {_shown(twice)} appears twice")
    return value


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"a whole number has {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted without recursion."""
    level, depth = [value], 0
    while level := [
        inner
        for each in level
        if isinstance(each, (dict, list))
        for inner in (each.values() if isinstance(each, dict) else each)
    ]:
        depth += 1
        if depth > DEEPEST:
            break
    return depth


def read_text(path: Path, remedy: str, errors: str = "strict") -> str:
    """The text of a file that may be anything.

    Args:
        path: of the file.
        remedy: what to do about a file that cannot be read.
        errors: what becomes of bytes that are no UTF-8, as for `open`.

    Raises:
        InputError: there is no file, or it is none of text.

    Example:
        >>> read_text(Path("/"), "pass a file")
        Traceback (most recent call last):
        selfexplain.errors.InputError: / is not a file; pass a file
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # another kind may never end
            raise InputError(f"{path} is not a file; {remedy}")
        if about.st_size > LARGEST:
            raise InputError(f"{path} has {about.st_size} bytes, too many to be read; {remedy}")
        return path.read_text(encoding="utf-8", errors=errors)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; {remedy}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except ValueError as error:  # its bytes, or a NUL in its name
        raise InputError(f"{escaped(str(path))} is not UTF-8 text; {remedy}") from error


def checked(value: Any, shape: Any, path: Path, remedy: str) -> Any:
    """A value as it is, if it has a shape.

    Raises:
        InputError: it has not; names file and field.

    Example:
        >>> checked({"seed": -1}, {"seed": Whole()}, Path("run.json"), "put the file back")
        Traceback (most recent call last):
        selfexplain.errors.InputError: run.json is damaged: seed is -1, and must be ...
    """
    if found := misfit(value, shape):
        raise InputError(f"{path} is damaged: {found}; {remedy}")
    return value
