"""What the options of a dataclass may be: their limits are in their type hints."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from selfexplain.errors import InputError

MOST = 1e30
"""No other number may be further from 0: float32, in which models compute, ends at 3e38."""
MOST_WHOLE = 2**31 - 1
"""No whole number may be further from 0, if its limits do not say so."""
LONGEST_NAME = 255
"""Bytes of a file's name, on the file systems in use."""
LONGEST_PATH = 4000
"""Bytes of a path, with room for the names of files in a folder."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that a number must lie between.

    Example:
        >>> Limits(above=0, most=1).words("number")
        'a number above 0 and at most 1'
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether a value lies between them."""
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def out_of_size(self, value: float, most: float) -> bool:
        """Whether a value is further from 0 than this, where the limits leave that side open."""
        open_above = self.most is None and self.below is None
        open_below = self.least is None and self.above is None
        return (open_above and value > most) or (open_below and value < -most)

    def words(self, kind: str) -> str:
        """What to pass."""
        if self.least is not None and self.most is not None:
            return f"a {kind} from {_number(self.least)} to {_number(self.most)}"
        words = {
            "of at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        said = [f"{word} {_number(value)}" for word, value in words.items() if value is not None]
        return f"a {kind} {' and '.join(said)}".rstrip()


Positive = Annotated[float, Limits(above=0)]
NotNegative = Annotated[float, Limits(least=0)]
Share = Annotated[float, Limits(least=0, most=1)]
ShareBelowOne = Annotated[float, Limits(least=0, below=1)]
Temperature = Annotated[float, Limits(least=0.01)]
Count = Annotated[int, Limits(least=1)]
Natural = Annotated[int, Limits(least=0)]
Seed = Annotated[int, Limits(least=0, most=2**63 - 1)]
"""Of generators."""


class OptionError(InputError):
    """An option whose value cannot be used.

    Args:
        message: begins with the field's name.
        owner: the dataclass.
        field: of it.

    Example:
        >>> OptionError("lr is 0; pass a number above 0", Limits, "lr").field
        'lr'
    """

    def __init__(self, message: str, owner: type, field: str) -> None:
        super().__init__(message)
        self.owner, self.field = owner, field


def check_options(options: Any) -> None:
    """Raise OptionError for the first field of a dataclass that is not what it is declared as.

    Looked at are numbers, paths, and tuples of either; a dataclass inside checks itself.

    Args:
        options: an instance, whose hints name any `Limits` other than being finite.

    Example:
        >>> @dataclass
        ... class Options:
        ...     rate: Positive = 0.1
        >>> check_options(Options(rate=float("nan")))
        Traceback (most recent call last):
        selfexplain.limits.OptionError: rate is nan; pass a finite number above 0
    """
    values = {each.name: getattr(options, each.name) for each in fields(options)}
    # Of choices the command line is told; a space of the user's own is one that it does not know.
    check_values(type(options), values, choices=False)


def check_values(kind: type, values: Mapping[str, Any], *, choices: bool = True) -> None:
    """Raise OptionError for the first value that is not what a dataclass declares its field as.

    Without `choices`, fields that are one of a few values are passed over. Fields that the class
    names in `URLS` may be URLs.
    """
    for field, value in values.items():
        hint = hints_of(kind)[field]
        of_few = any(get_origin(each) is Literal for each in (hint, *get_args(hint)))
        if of_few and not choices:
            continue
        if field in getattr(kind, "URLS", ()) and is_url(value):
            continue
        for problem in _problems(value, hint, Limits()):
            raise OptionError(f"{field.rstrip('_')} is {problem}", kind, field)


def check_in_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise InputError unless low <= value <= high and the value is finite.

    Example:
        >>> check_in_range("smoothing", 0.1, 0.0, 1.0)
        >>> check_in_range("temperature", math.inf, 0.01)
        Traceback (most recent call last):
        selfexplain.errors.InputError: temperature is inf; pass a finite number of at least 0.01
    """
    limits = Limits(least=low, most=None if high == math.inf else high)
    for problem in _of_number(value, float, limits):
        raise InputError(f"{name} is {problem}")


def check_path(name: str, path: Path) -> None:
    """Raise InputError for a path that no file system has.

    Example:
        >>> check_path("folder", Path("runs") / "one")
    """
    for problem in _of_path(path):
        raise InputError(f"{name} is {problem}")


_URL = re.compile(r"([a-z][a-z0-9+.:-]+):(?:/+(.*))?", re.DOTALL | re.IGNORECASE)
"""As a path, which has one slash where a URL has two, and none at its end."""


def is_url(path: Path) -> bool:
    """Whether a path is a URL of storage.

    Example:
        >>> is_url(Path("s3://bucket/sweep")), is_url(Path("runs/sweep"))
        (True, False)
    """
    return _URL.fullmatch(str(path)) is not None


def url_of(path: Path) -> str:
    """A URL that has become a path.

    Example:
        >>> url_of(Path("s3://bucket/sweep")), url_of(Path("file:///tmp/sweep"))
        ('s3://bucket/sweep', 'file:///tmp/sweep')
    """
    found = _URL.fullmatch(str(path))
    assert found is not None, "nobody asks otherwise"
    protocol, rest = found[1].lower(), found[2] or ""
    return f"{protocol}://{'/' if protocol in ('file', 'local') else ''}{rest}"


def check_once(options: Any, field: str) -> None:
    """Raise OptionError if a field of a dataclass, a tuple, holds one value twice.

    Example:
        >>> @dataclass
        ... class Options:
        ...     seeds: tuple[int, ...] = (0, 0)
        >>> check_once(Options(), "seeds")
        Traceback (most recent call last):
        selfexplain.limits.OptionError: seeds names one twice; pass each once
    """
    values = getattr(options, field)
    if len(set(values)) < len(values):
        raise OptionError(f"{field} names one twice; pass each once", type(options), field)


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """The hints of a class's fields, with what they are annotated with."""
    return get_type_hints(kind, include_extras=True)


def _problems(value: Any, hint: Any, limits: Limits) -> list[str]:
    """What is wrong with a value: it, and what to pass; empty if nothing is."""
    if get_origin(hint) is Annotated:
        named = next((m for m in hint.__metadata__ if isinstance(m, Limits)), limits)
        return _problems(value, hint.__origin__, named)
    if get_origin(hint) is tuple:
        items = value if isinstance(value, tuple) else ()
        return [p for item in items for p in _problems(item, get_args(hint)[0], limits)]
    kinds = get_args(hint)
    if type(None) in kinds:
        kinds = tuple(kind for kind in kinds if kind is not type(None))
        return [] if value is None else _problems(value, kinds[0], limits)
    if len(kinds) > 1 and get_origin(kinds[-1]) is Literal:  # a number or a word
        words = get_args(kinds[-1])
        found = [] if value in words else _problems(value, kinds[0], limits)
        return [f"{each}, or {' or '.join(words)}" for each in found]
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if isinstance(value, type(choices[0])) and value in choices:
            return []
        return [f"{value!r}; pass one of {', '.join(map(str, choices))}"]
    if hint in (int, float):
        return _of_number(value, hint, limits)
    return _of_path(value) if hint is Path and isinstance(value, Path) else []


def _of_number(value: Any, kind: type, limits: Limits) -> list[str]:
    said = "whole number" if kind is int else "number"
    numbers: Any = Integral if kind is int else Real  # as numpy's are, too
    if isinstance(value, bool) or not isinstance(value, numbers):
        return [f"{str(value)[:60]!r}; pass {limits.words(said)}"]
    if not isinstance(value, Integral) and not math.isfinite(value):
        return [f"{value}; pass {limits.words('finite number')}"]
    if not limits.hold(value):
        return [f"{_number(value)}; pass {limits.words(said)}"]
    most = MOST_WHOLE if kind is int else MOST
    if limits.out_of_size(value, most):
        return [
            f"{_number(value)}; pass {limits.words(said)}, of a size of at most {_number(most)}"
        ]
    return []


def _of_path(path: Path) -> list[str]:
    raw = str(path).encode("utf-8", "surrogatepass")
    if b"\0" in raw:
        return ["a path with a NUL in it; pass a path without"]
    if is_url(path):
        return [
            f"{url_of(path)}, and only --out of compare, study-kd, search --seeds and nas-study "
            "may be a URL; pass a path on this machine"
        ]
    longest = max((len(part.encode("utf-8", "surrogatepass")) for part in path.parts), default=0)
    if longest > LONGEST_NAME or len(raw) > LONGEST_PATH:
        return [
            f"a path of {len(raw)} bytes, with a name of {longest}; pass one of at most "
            f"{LONGEST_PATH}, with names of at most {LONGEST_NAME}"
        ]
    return []


def _number(value: float) -> str:
    """A number in few characters."""
    if value == 2**63 - 1:
        return "2^63 - 1"
    if not isinstance(value, int):
        return f"{value:g}"
    # of longer ones Python may refuse to write the digits
    digits = int(value.bit_length() * math.log10(2)) + 1
    return str(value) if digits <= 40 else f"a number of {digits} digits"
