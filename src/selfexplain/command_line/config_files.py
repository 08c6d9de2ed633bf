"""Options from a file: YAML of one's own, or the record that a run left in its folder.

A file is turned into words of the command line that stand before those that were typed, so that the
parser checks all of them, and the last of a kind counts.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfexplain.command_line.flags import (
    REQUIRED,
    Flag,
    flags_of,
    grouped,
    is_flag,
    negation,
    paragraphs,
    values_of,
)
from selfexplain.command_line.flags import near as nearest
from selfexplain.errors import InputError, first_line
from selfexplain.experiments.options import AUTO_DIR, PHOTOS_UNSET
from selfexplain.files import read_json
from selfexplain.introspection.options import FORMER_NAMES
from selfexplain.limits import hints_of
from selfexplain.records import read_text

CONFIG = "--config"
RECORDS = ("run.json", "compare.json", "nas-study.json")
"""What a run, a comparison or a study leaves in its folder."""
NOT_OPTIONS = {"tensorboard", "environment", "unfinished", "tuning", "undecided_below"}
"""What records say in their configuration besides options."""
UNSET = (str(AUTO_DIR), PHOTOS_UNSET)
"""Defaults that stand for none."""


# From a file to words.


def with_config(command: str, config: type, words: Sequence[str]) -> list[str]:
    """The words of a command line with what its --config files say before them.

    Args:
        command: its name, for messages.
        config: its options class.
        words: after the command.

    Raises:
        InputError: a file cannot be read, or has a key that is no option of the command.

    Example:
        >>> from selfexplain.training.options import TrainingOptions
        >>> with_config("train", TrainingOptions, ["--epochs", "3"])
        ['--epochs', '3']
    """
    files, rest = [], []
    remaining = iter(words)
    for word in remaining:
        if word == CONFIG:
            file = next(remaining, "")
        elif word.startswith(f"{CONFIG}="):
            file = word.removeprefix(f"{CONFIG}=")
        else:
            rest.append(word)
            continue
        if not file or file.startswith("--"):
            raise InputError("--config is followed by no file; pass run.yaml, or a run's folder")
        files.append(Path(file))
    read = [words_of(command, config, file) for file in files]
    first = next((place for place, word in enumerate(rest) if is_flag(word)), len(rest))
    # What has no name stands first, since a list before it would take it in.
    unnamed = [*read, (rest[:first], [])][::-1]
    positional: list[str] = next((said for said, _ in unnamed if said), [])
    return [*positional, *(word for _, named in read for word in named), *rest[first:]]


def words_of(command: str, config: type, path: Path) -> tuple[list[str], list[str]]:
    """What a file says, as words of the command line: those without a name, and the others.

    Args:
        command: its name, for messages.
        config: its options class.
        path: of a YAML file, of a record (`run.json`, `compare.json`, ...), or a folder with one.

    Raises:
        InputError: the file cannot be read, or has a key that is no option of the command.
    """
    values, record, path = read_config(path)
    if record:
        values = _whole(config, {k: v for k, v in values.items() if k not in NOT_OPTIONS})
        if command == "finetune":  # whose network always is
            values.pop("pretrained", None)
    known = flags_of(config)
    words: list[str] = []
    positional: list[str] = []
    for keys, value in _leaves(values, ()):
        flag = _flag_named(keys, known)
        if flag is None:
            raise _unknown(command, known, keys, values if record else {}, path)
        said = list(_said(flag, value, path))
        (positional if flag.positional else words).extend(said)
    return positional, words


def read_config(path: Path) -> tuple[dict[str, Any], bool, Path]:
    """What a file says, whether it is a record that a run left, and the file.

    Example:
        >>> read_config(Path("absent.yaml"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no file absent.yaml; pass a YAML file, or ...
    """
    if path.is_dir():
        there = [path / name for name in RECORDS if (path / name).exists()]
        if not there:
            raise InputError(
                f"{path} holds no {', '.join(RECORDS)}; pass a YAML file, or the folder of a run"
            )
        path = there[0]
    if path.suffix == ".json":
        values = read_json(path)
        if isinstance(values.get("config"), dict):
            return values["config"], True, path
        return values, False, path
    return _read_yaml(path), False, path


def _read_yaml(path: Path) -> dict[str, Any]:
    text = read_text(path, "pass a YAML file, or a run's folder or run.json")
    import yaml  # most commands read no file

    try:
        _check_keys(yaml.compose(text, yaml.SafeLoader))
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split()) or first_line(error)
        raise InputError(
            f"{path} is not YAML ({said[:200]}); selfexplain config prints one"
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no options; pass lines such as epochs: 30")
    return values


def _check_keys(node: Any) -> None:
    """Refuse a key that stands twice in one place, of which YAML would take the last."""
    if node is None or isinstance(node.value, str):
        return
    if node.id == "mapping":
        keys = [str(key.value) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"the key {key} appears twice")
    for inner in node.value:
        _check_keys(inner[1] if node.id == "mapping" else inner)


def _whole(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the options that it leaves out since they were what runs had before them.

    These are the defaults of the options classes, which a command may replace by others.
    """
    whole = dict(values)
    for name, value in values.items():
        hint = hints_of(config).get(name)
        kind = getattr(hint, "__origin__", hint)
        if isinstance(value, dict) and isinstance(kind, type) and dataclasses.is_dataclass(kind):
            defaults = {
                each.name: each.default
                for each in dataclasses.fields(kind)
                if each.default is not dataclasses.MISSING
                and not dataclasses.is_dataclass(each.default)
            }
            whole[name] = defaults | value
    return whole


def _leaves(values: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path of keys -> value; keys that are dotted, as flags are, are taken apart."""
    for key, value in values.items():
        path = (*keys, *str(key).split("."))
        if isinstance(value, dict):
            yield from _leaves(value, path)
        else:
            yield path, value


def _flag_named(keys: tuple[str, ...], known: Sequence[Flag]) -> Flag | None:
    """The flag that keys name: by the fields that lead to it, or by its name."""
    names = tuple(key.replace("-", "_") for key in keys)
    names = (*names[:-1], FORMER_NAMES.get(names[-1], names[-1]))
    for flag in known:
        typed = tuple(flag.name.removeprefix("--").replace("-", "_").lower().split("."))
        if names in (flag.path, typed, _short(flag.path)):
            return flag
    return None


def _short(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path of an option of an objective, without `options`."""
    return path[1:] if len(path) > 2 and path[0] == "options" else path


def _unknown(
    command: str,
    known: Sequence[Flag],
    keys: tuple[str, ...],
    record: Mapping[str, Any],
    path: Path,
) -> InputError:
    name = ".".join(keys)
    names = [key_of(flag) for flag in known]
    meant = nearest(name, names) or nearest(keys[-1], names)
    of = _command_of(record)
    if of not in (None, command):
        return InputError(
            f"{path} is the record of {of}, and {command} has no option {name}{meant}; pass it to "
            f"selfexplain {of}"
        )
    return InputError(
        f"{path} has the key {name}, which is no option of {command}{meant}; selfexplain config "
        f"{command} prints all"
    )


def _command_of(record: Mapping[str, Any]) -> str | None:
    """Which command a record is of; None if nothing is known."""
    if not record:
        return None
    signs = {
        "methods": "nas-study",
        "space": "search",
        "objectives": "compare",
        "genotype": "retrain",
    }
    return next((command for key, command in signs.items() if key in record), "train")


def _said(flag: Flag, value: Any, path: Path) -> Iterator[str]:
    """A value as words of the command line."""
    name = key_of(flag)
    if flag.switch:
        if not isinstance(value, bool):
            raise InputError(f"{path}: {name} is {value!r}; pass true or false")
        yield flag.name if value else negation(flag.name)
        return
    if flag.several:
        values = value if isinstance(value, list) else [] if value is None else [value]
        texts = [_text(each, name, path) for each in values]
        yield from texts if flag.positional else [flag.name, *texts]
        return
    if isinstance(value, list):
        raise InputError(f"{path}: {name} is a list; pass one value")
    if value is None and flag.kind == flag.hint:
        raise InputError(f"{path}: {name} has no value; pass one, or leave it out")
    text = _text(value, name, path)
    yield text if flag.positional else f"{flag.name}={text}"


def _text(value: Any, name: str, path: Path) -> str:
    if isinstance(value, (dict, list)):
        raise InputError(f"{path}: {name} holds a {type(value).__name__}; pass values alone")
    text = str(value)
    if not text:
        raise InputError(f"{path}: {name} is an empty text; pass a value, or leave it out")
    return text


# A file to begin from.


def key_of(flag: Flag) -> str:
    """What a flag is called in a file.

    Example:
        >>> from selfexplain.training.options import TrainingOptions
        >>> key_of(flags_of(TrainingOptions)[1])
        'batch_size'
    """
    return flag.name.removeprefix("--").replace("-", "_").lower()


def commented(command: str, config: type, words: Sequence[str] = ()) -> str:
    """A YAML file with every option of a command, its meaning and its default.

    Of the objectives' options those of the chosen objectives are in it.

    Args:
        command: its name.
        config: its options class.
        words: flags whose values stand in place of the defaults.

    Example:
        >>> from selfexplain.training.options import TrainingOptions
        >>> print(commented("train", TrainingOptions, ["--epochs", "3"]).splitlines()[8])
        epochs: 3
    """
    lines = [
        f"# {paragraphs(config)[0]}",
        "#",
        f"# selfexplain {command} --config FILE reads this file; flags after it come on top.",
        "# What a line says is the default, unless you change it; null stands for None.",
    ]
    for title, flags in grouped(config, words)[0].items():
        lines += ["", f"# -- {title} --", ""]
        of = flags[0].objective
        lines += [f"{of}:"] if of is not None else []
        indent = "" if of is None else "  "
        lines += [f"{indent}{line}" for flag in flags for line in _lines_of(flag, words)]
    return "\n".join([*lines, ""])


def _lines_of(flag: Flag, words: Sequence[str]) -> list[str]:
    """Comment and value of one option."""
    about = f"{flag.about} One of {', '.join(flag.choices)}." if flag.choices else flag.about
    if flag.default is REQUIRED:
        about = f"{about} (required)"
    comment = textwrap.wrap(
        about, 96, initial_indent="# ", subsequent_indent="# ", break_long_words=False
    )
    key = key_of(flag).rpartition(".")[2]
    given = _given(flag, words)
    if given is not None:
        return [*comment, f"{key}: {given}"]
    if flag.default is REQUIRED or str(flag.default) in UNSET:
        return [*comment, f"# {key}:"]
    return [*comment, f"{key}: {_yaml(flag.default)}"]


def _given(flag: Flag, words: Sequence[str]) -> str | None:
    """The value that a flag has among words, as YAML; None if it is not there."""
    for word in reversed(words):
        if flag.switch and word in (flag.name, negation(flag.name)):
            return _yaml(word == flag.name)
    values = values_of(flag.name, words)
    if not values:
        return None
    return f"[{', '.join(map(_typed, values))}]" if flag.several else _typed(values[-1])


def _typed(word: str) -> str:
    """A word as YAML; numbers stay what they are."""
    if word == "None":
        return "null"
    import yaml

    try:
        plain = isinstance(yaml.safe_load(word), (int, float, bool))
    except yaml.YAMLError:
        plain = False
    return word if plain else _yaml(word)


def _yaml(value: Any) -> str:
    import yaml

    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = [str(each) if isinstance(each, Path) else each for each in value]
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
