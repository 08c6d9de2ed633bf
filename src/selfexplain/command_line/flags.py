"""The flags of a command, found in its options class as the parser finds them: names, help, groups.

Help pages, near names of what is misspelt, and configuration files are all made from this one list.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from selfexplain.errors import InputError
from selfexplain.limits import hints_of
from selfexplain.objectives.options import ObjectiveOptions, parts_of

REQUIRED = dataclasses.MISSING
"""The default of a flag that must be given."""
MAIN = "Main options"


@dataclass(frozen=True, slots=True)
class Flag:
    """One option of a command.

    Args:
        name: as it is typed, `--batch-size`; of a positional one, its field in capitals.
        path: the fields that lead to it from the options class.
        hint: its type, without what it is annotated with.
        default: REQUIRED if there is none.
        about: what it does.
        group: heading of its group.
        objective: the objective whose option it is, or None.
        also: other names that the parser takes.
    """

    name: str
    path: tuple[str, ...]
    hint: Any
    default: Any
    about: str
    group: str
    objective: str | None = None
    also: tuple[str, ...] = ()

    @property
    def positional(self) -> bool:
        """Whether it is given without a name."""
        return not self.name.startswith("--")

    @property
    def kind(self) -> Any:
        """The type, without None."""
        return _without_none(self.hint)

    @property
    def switch(self) -> bool:
        """Whether it is given without a value: `--flag` or `--no-flag`."""
        return self.hint is bool

    @property
    def several(self) -> bool:
        """Whether it takes any number of values."""
        return get_origin(self.kind) is tuple

    @property
    def names(self) -> tuple[str, ...]:
        """All that may be typed for it."""
        negated = (negation(self.name),) if self.switch else ()
        return (self.name, *negated, *self.also)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it may have, if they are few."""
        kind = get_args(self.kind)[0] if self.several else self.kind
        return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


def negation(name: str) -> str:
    """How a switch is turned off.

    Example:
        >>> negation("--flip"), negation("--icasc.mirror")
        ('--no-flip', '--icasc.no-mirror')
    """
    *before, last = name.removeprefix("--").split(".")
    return "--" + ".".join([*before, f"no-{last}"])


@cache
def flags_of(config: type) -> tuple[Flag, ...]:
    """All flags of an options class, in the order of its fields.

    Example:
        >>> from selfexplain.training.options import TrainingOptions
        >>> [flag.name for flag in flags_of(TrainingOptions)][:2]
        ['--epochs', '--batch-size']
    """
    return tuple(_flags(config, (), "", MAIN, None, None))


def _flags(
    config: type,
    path: tuple[str, ...],
    prefix: str,
    group: str,
    objective: str | None,
    instance: Any,
) -> Iterator[Flag]:
    texts = field_texts(config)
    for each in dataclasses.fields(config):
        hint, marks = _plain(hints_of(config)[each.name])
        default = _default(each) if instance is None else getattr(instance, each.name)
        name = next((n for mark in marks if (n := getattr(mark, "name", None)) is not None), None)
        name = each.name if name is None else name
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            inner = f"{prefix}{name}." if name else prefix
            of = each.name if config is ObjectiveOptions else objective
            start = None if default is REQUIRED else default
            title = MAIN if hint is ObjectiveOptions else first_sentence(hint).rstrip(".")
            yield from _flags(hint, (*path, each.name), inner, title, of, start)
            continue
        dashed = (prefix + name).replace("_", "-")
        yield Flag(
            name=each.name.upper() if tyro.conf.Positional in marks else f"--{dashed}",
            path=(*path, each.name),
            hint=hint,
            default=default,
            about=texts.get(each.name, ""),
            group=group,
            objective=objective,
            also=tuple(a for mark in marks for a in getattr(mark, "aliases", None) or ()),
        )


def _plain(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A hint without its annotations, also inside of it, and the outermost ones."""
    marks: tuple[Any, ...] = ()
    while get_origin(hint) is Annotated:
        marks += hint.__metadata__
        hint = hint.__origin__
    return _stripped(hint), marks


def _stripped(hint: Any) -> Any:
    if get_origin(hint) is Annotated:
        return _stripped(hint.__origin__)
    if get_origin(hint) is tuple:
        several: Any = types.GenericAlias(tuple, (_stripped(get_args(hint)[0]), ...))
        return several
    if get_origin(hint) in (typing.Union, types.UnionType):
        stripped: Any = typing.Union[tuple(_stripped(kind) for kind in get_args(hint))]  # noqa: UP007
        return stripped
    return hint


def _without_none(hint: Any) -> Any:
    kinds = tuple(kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) not in (typing.Union, types.UnionType) or len(kinds) == len(get_args(hint)):
        return hint
    remaining: Any = typing.Union[kinds]  # noqa: UP007
    return remaining


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED


# What the source says of a class and its fields.


@cache
def field_texts(config: type) -> dict[str, str]:
    """The string below each field of a dataclass, those of its bases included, in one line each."""
    texts: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                texts[field.target.id] = " ".join(str(below.value.value).split())
    return texts


def paragraphs(config: type) -> list[str]:
    """What the docstring of an options class says of the command, a line for each paragraph."""
    said = inspect.cleandoc(config.__doc__ or "").split("\n\n")
    ends = [i for i, text in enumerate(said) if text.startswith(("Raises:", "Example:", "Args:"))]
    return [" ".join(text.split()) for text in said[: min(ends, default=len(said))]]


def first_sentence(config: type) -> str:
    """What an options class is for, in a line."""
    return paragraphs(config)[0]


# What was typed, as far as it can be told before it is parsed.


def is_flag(word: str) -> bool:
    """Whether a word is the name of a flag and not a value, such as a negative number."""
    return word.startswith("-") and not word[1:2].isdigit() and word[1:2] not in (".", "")


def name_of(word: str) -> str:
    """The name of a flag as help writes it.

    Example:
        >>> name_of("--batch_size=3")
        '--batch-size'
    """
    return word.partition("=")[0].replace("_", "-")


def values_of(name: str, words: Sequence[str]) -> list[str]:
    """The values that the last mention of a flag has.

    Example:
        >>> values_of("--seeds", ["--seeds", "0", "1", "--epochs=3"])
        ['0', '1']
    """
    found: list[str] = []
    for place, word in enumerate(words):
        if is_flag(word) and name_of(word) == name:
            found = [word.partition("=")[2]] if "=" in word else _following(words, place)
    return found


def objectives_in(config: type, words: Sequence[str]) -> set[str]:
    """Names of the objectives and mixers that a command line, or the defaults, ask for."""
    specs: list[str] = []
    for flag in flags_of(config):
        if flag.path in (("objective",), ("objectives",)):
            default = flag.default if flag.several else [flag.default]
            specs += values_of(flag.name, words) or default
    return {part.partition(":")[0] for spec in specs for part in parts_of(spec)}


def grouped(
    config: type, words: Sequence[str], *, every: bool = False
) -> tuple[dict[str, list[Flag]], list[str]]:
    """Heading -> flags, what must be given first; and the objectives whose options are left out.

    Args:
        config: an options class.
        words: what was typed, which may name objectives.
        every: whether the options of all objectives are wanted.

    Example:
        >>> from selfexplain.training.options import TrainingOptions
        >>> list(grouped(TrainingOptions, [])[0])
        ['Main options']
    """
    chosen = objectives_in(config, words)
    groups: dict[str, list[Flag]] = {MAIN: []}
    hidden: list[str] = []
    for flag in flags_of(config):
        if flag.objective is None:
            groups.setdefault(flag.group, []).append(flag)
        elif every or flag.objective in chosen:
            groups.setdefault(f"Objective {flag.objective}", []).append(flag)
        elif flag.objective not in hidden:
            hidden.append(flag.objective)
    for flags in groups.values():
        flags.sort(key=lambda flag: flag.default is not REQUIRED)
    return {title: flags for title, flags in groups.items() if flags}, hidden


def check_known(command: str, config: type, words: Sequence[str]) -> None:
    """Raise InputError for a flag that a command does not have, with the nearest that it has.

    Example:
        >>> from selfexplain.training.options import TrainingOptions
        >>> check_known("train", TrainingOptions, ["--epoch", "3"])
        Traceback (most recent call last):
        selfexplain.errors.InputError: train has no option --epoch (did you mean --epochs?); ...
    """
    known = [name for flag in flags_of(config) for name in flag.names]
    for word in words:
        if is_flag(word) and name_of(word) not in known:
            meant = near(name_of(word), known)
            raise InputError(
                f"{command} has no option {word.partition('=')[0]}{meant}; "
                f"selfexplain {command} --help-all lists them"
            )


def check_values(command: str, config: type, words: Sequence[str]) -> None:
    """Raise InputError for a flag without a value, or with one that is none of its kind.

    Looked at are choices and numbers; what else there is the parser and the options see to.

    Example:
        >>> from selfexplain.training.options import TrainingOptions
        >>> check_values("train", TrainingOptions, ["--optimizer", "adam"])
        Traceback (most recent call last):
        selfexplain.errors.InputError: --optimizer is adam (did you mean adamw?); pass one of ...
        >>> check_values("train", TrainingOptions, ["--epochs", "3.5"])
        Traceback (most recent call last):
        selfexplain.errors.InputError: --epochs is '3.5'; pass a whole number
    """
    flags = {name: flag for flag in flags_of(config) for name in (flag.name, *flag.also)}
    for place, word in enumerate(words):
        flag = flags.get(name_of(word)) if is_flag(word) else None
        if flag is None or flag.switch:
            continue
        values = [word.partition("=")[2]] if "=" in word else _following(words, place)
        if not values and not flag.several:
            raise InputError(
                f"{flag.name} is followed by no value; pass {value_name(flag)}, or see selfexplain "
                f"{command} --help"
            )
        for value in values if flag.several else values[:1]:
            if problem := _problem(flag, value):
                raise InputError(f"{flag.name} is {problem}")


def check_required(command: str, config: type, words: Sequence[str]) -> None:
    """Raise InputError for the first flag that must be given and is not; the parser has the others.

    Example:
        >>> from selfexplain.experiments.options import DataOptions
        >>> check_required("train", DataOptions, [])
        Traceback (most recent call last):
        selfexplain.errors.InputError: train needs --data NAME: digits | parquet:DIR | ...
    """
    given = {name_of(word) for word in words if is_flag(word)}
    for flag in flags_of(config):
        if flag.default is REQUIRED and not flag.positional and flag.name not in given:
            about = flag.about.rstrip(".")
            raise InputError(f"{command} needs {flag.name} {value_name(flag)}: {about}")


def _following(words: Sequence[str], place: int) -> list[str]:
    """The words after a flag, up to the next one."""
    rest = words[place + 1 :]
    end = next((i for i, word in enumerate(rest) if is_flag(word)), len(rest))
    return list(rest[:end])


def _problem(flag: Flag, value: str) -> str:
    """What is wrong with a value, and what to pass; nothing if it may be one."""
    kind = get_args(flag.kind)[0] if flag.several else flag.kind
    if value == "None" and flag.hint != flag.kind:
        return ""
    if choices := flag.choices:
        said = f"{value}{near(value, choices)}; pass one of {', '.join(choices)}"
        return "" if value in choices else said
    if kind not in (int, float):
        return ""
    try:
        kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        return f"{value[:60]!r}; pass {what}"
    return ""


def near(name: str, known: Sequence[str]) -> str:
    """The nearest of some names, as a question in brackets; nothing if none is near.

    Example:
        >>> near("trian", ["train", "compare"]), near("x", ["train"])
        (' (did you mean train?)', '')
    """
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.7)  # gpu is not nearly cpu
    return f" (did you mean {found[0]}?)" if found else ""


def value_name(flag: Flag) -> str:
    """What stands for a flag's value in help."""
    kind = get_args(flag.kind)[0] if flag.several else flag.kind
    if choices := flag.choices:
        text = "|".join(choices)
        name = text if len(text) <= LONGEST_CHOICES else "NAME"
    elif kind is bool:
        name = "True|False"
    else:
        names = {int: "INT", float: "FLOAT", Path: "PATH", str: "NAME"}
        name = names.get(kind, "FLOAT")
    return f"{name} ..." if flag.several else name


LONGEST_CHOICES = 24
"""Characters of choices that help writes in place of a value."""
