"""A name and its options in one word of the command line: NAME:option=value,option=value.

Without torch, so that a command can refuse such a word before it imports anything.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from selfexplain.errors import InputError


def read_options(
    spec: str,
    name: str,
    text: str | None,
    hints: Mapping[str, Any],
    former: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The options that a spec gives, each in the type of its hint.

    Args:
        spec: all of it, for messages.
        name: what it begins with.
        text: its options, `option=value,option=value`; None where it has no place for any.
        hints: type of each option that the name has.
        former: another name of an option -> its name in `hints`.

    Raises:
        InputError: an option is unknown, stands there twice, or has no value of its type.

    Example:
        >>> read_options("kd:alpha=0.9", "kd", "alpha=0.9", {"alpha": float, "layer": str | None})
        {'alpha': 0.9}
    """
    texts = [] if text is None else text.split(",")
    if "" in texts:
        raise InputError(f"{spec!r} has a separator without an option; add one, or remove it")
    pairs = [_read_option(each, name, hints, former or {}) for each in texts]
    given = dict(pairs)
    if len(given) < len(pairs):
        raise InputError(f"{spec!r} gives an option twice; pass each once")
    return given


def _read_option(
    part: str, name: str, hints: Mapping[str, Any], former: Mapping[str, str]
) -> tuple[str, Any]:
    """One `option=value`, the value in the type of the option."""
    option, equals, text = part.partition("=")
    option = option if option in hints else former.get(option, option)
    if option in hints and not equals:
        raise InputError(f"{option} of {name} has no value; pass it as {option}=VALUE")
    if option not in hints:
        near = difflib.get_close_matches(option, hints, n=1) or sorted(hints) or ["no options"]
        raise InputError(
            f"{name} has no option {part!r}; pass {' or '.join(near)}, as option=value"
        )
    try:
        return option, _value(text, hints[option])
    except ValueError as error:
        raise InputError(f"{option} of {name} is {text!r}; pass {error}") from error


def _value(text: str, hint: Any) -> Any:
    """A text in the type that an option is declared with; ValueError names what would do."""
    hints = get_args(hint) or (hint,)  # float | None is read as a number
    if bool in hints:
        if text not in {"true", "false"}:
            raise ValueError("true or false")
        return text == "true"
    words = [word for h in hints if get_origin(h) is Literal for word in get_args(h)]
    if text in words:  # in place of a number
        return text
    for kind, name in ((int, "a whole number"), (float, "a number")):
        if kind in hints:
            try:
                return kind(text)
            except ValueError as error:
                raise ValueError(", or ".join([name, *words])) from error
    return text
