"""Help pages: as wide as the terminal, in groups, of the chosen objectives' options alone."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from selfexplain.command_line.flags import (
    MAIN,
    REQUIRED,
    Flag,
    first_sentence,
    flags_of,
    grouped,
    negation,
    paragraphs,
    value_name,
)

HELP = ("-h", "--help")
HELP_ALL = "--help-all"
COLUMN = 30
"""Where explanations begin; a longer name has a line of its own."""
NARROW, WIDE = 60, 110
"""Below the one, explanations stand below names; no line is longer than the other."""


def width() -> int:
    """Columns of the terminal, 80 where there is none; COLUMNS in the environment counts."""
    return min(WIDE, shutil.get_terminal_size((80, 24)).columns)


def overview(
    program: str, about: str, groups: Mapping[str, Mapping[str, type]], examples: Mapping[str, str]
) -> str:
    """The page that lists the commands.

    Args:
        program: its name.
        about: what it is, in a sentence.
        groups: heading -> command -> its options class.
        examples: command -> how it is called.

    Example:
        >>> from selfexplain.training.options import TrainingOptions
        >>> groups = {"Train": {"train": TrainingOptions}}
        >>> overview("p", "About.", groups, {"train": "p train"}).splitlines()[0]
        'Usage: p COMMAND [OPTIONS]'
    """
    lines = [_head("Usage:", f"{program} COMMAND [OPTIONS]"), "", *_wrapped(about, 0)]
    for title, commands in groups.items():
        lines += ["", _bold(title)]
        for name, config in commands.items():
            lines += _entry(name, first_sentence(config), 14)
    first = next(iter(examples.values()))
    lines += ["", *_example(first), ""]
    lines += _wrapped(
        f"{program} COMMAND --help explains a command; {program} config COMMAND prints a file of "
        "its options.",
        0,
    )
    return "\n".join([*lines, ""])


def command_page(
    program: str, command: str, config: type, example: str, words: Sequence[str], *, every: bool
) -> str:
    """The page of one command.

    Args:
        program: its name.
        command: the command's.
        config: its options class.
        example: how it is called.
        words: what was typed, which may name objectives.
        every: whether the options of all objectives are explained.

    Example:
        >>> from selfexplain.training.options import TrainingOptions
        >>> page = command_page("p", "train", TrainingOptions, "p train", [], every=False)
        >>> "Passes over the training images." in page
        True
    """
    flags = flags_of(config)
    needed = "".join(
        f" {flag.name} {value_name(flag)}" if not flag.positional else f" {flag.name}"
        for flag in flags
        if flag.default is REQUIRED
    )
    lines = [_head("Usage:", f"{program} {command}{needed} [OPTIONS]"), *_example(example)]
    for text in paragraphs(config):
        lines += ["", *_wrapped(text, 0)]
    groups, hidden = grouped(config, words, every=every)
    for title, members in groups.items():
        lines += ["", *map(_bold, _wrapped(title, 0))]
        for flag in members:
            lines += _entry(_typed(flag), _explained(flag), COLUMN)
        if title == MAIN:
            lines += _entry("--config FILE", CONFIG_SAID, COLUMN)
    if hidden:
        lines += ["", *_wrapped(f"{HELP_ALL} also explains the options of {', '.join(hidden)}.", 0)]
    return "\n".join([*lines, ""])


CONFIG_SAID = (
    "File with options, YAML or the run.json of a run, or the folder of one; flags come on top of "
    "it. May be given several times."
)


def _typed(flag: Flag) -> str:
    """How a flag is typed."""
    if flag.positional:
        return f"{flag.name} ..." if flag.several else flag.name
    if flag.switch:
        return f"{flag.name}, {negation(flag.name)}"
    return f"{flag.name} {value_name(flag)}"


def _explained(flag: Flag) -> str:
    """What a flag does, its choices where they are not in its name, and its default."""
    text = flag.about
    unnamed = [choice for choice in flag.choices if choice not in text]
    if unnamed and "|" not in value_name(flag):
        text += f" One of {', '.join(flag.choices)}."
    if flag.default is REQUIRED:
        return f"{text} (required)"
    default = _shown(flag.default)
    return f"{text} [default: {default}]" if default else text


def _shown(default: Any) -> str:
    """A default as it would be typed; nothing for none."""
    if default is None or default is False or default == ():
        return ""
    if default is True:
        return "yes"
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


# Lines.


def _head(title: str, text: str) -> str:
    """A line with a heading; continued below, no word of it is cut."""
    indent = " " * (len(title) + 1)
    lines = _wrapped(text, len(indent))
    return _bold(title) + " " + "\n".join(lines)[len(indent) :]


def _example(text: str) -> list[str]:
    """An example, continued as shells want it."""
    lines = _wrapped(text, 9, room=2)
    lines[0] = _bold("Example:") + lines[0][8:]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _entry(name: str, text: str, column: int) -> Iterator[str]:
    """A name, and what it is beside it, or below a name that is too long."""
    if width() < NARROW:
        yield f"  {name}"
        yield from _wrapped(text, 6)
        return
    lines = _wrapped(text, column)
    if len(name) + 4 > column:
        yield f"  {name}"
    else:
        lines[0] = f"  {name}".ljust(column) + lines[0][column:]
    yield from lines


def _wrapped(text: str, indent: int, room: int = 0) -> list[str]:
    """A text in lines of the terminal's width; only white space is a place to break."""
    return textwrap.wrap(
        text,
        max(width() - room, indent + 20),
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [" " * indent]


def _bold(text: str) -> str:
    """A heading, in bold on a terminal that wants it."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[1m{text}\033[0m"
