"""Which options of an objective's spec are open to tuning, and a spec with them set."""

from collections.abc import Mapping
from typing import get_type_hints

from selfexplain.objectives import Choice
from selfexplain.objectives.tunable import Tunable
from selfexplain.recipes.objective_options import ObjectiveOptions
from selfexplain.recipes.objectives import OBJECTIVES
from selfexplain.recipes.partners import parts_of

Value = str | int | float | bool


def free_options(spec: str) -> dict[str, Tunable]:
    """The tunable options of a spec's objective that the spec does not fix.

    Where several parts are joined by `+`, the last is the objective.

    Example:
        >>> list(free_options("label_smoothing"))
        ['smoothing']
        >>> list(free_options("label_smoothing:smoothing=0.2"))
        []
    """
    name, _, fixed = parts_of(spec)[-1].partition(":")
    named = {part.partition("=")[0] for part in fixed.split(",")}
    return {k: v for k, v in OBJECTIVES[name].tunable.items() if k not in named}


def with_options(spec: str, options: Mapping[str, Value]) -> str:
    """A spec whose last part has these options too.

    Example:
        >>> with_options("introspective:control=permuted", {"weight": 0.123456})
        'introspective:control=permuted,weight=0.123'
    """
    if not options:
        return spec
    last = parts_of(spec)[-1]
    text = ",".join(f"{name}={_text(value)}" for name, value in options.items())
    return f"{spec}{',' if ':' in last else ':'}{text}"


def whole_numbers(spec: str, options: ObjectiveOptions) -> set[str]:
    """Names of the options of a spec's objective that are whole numbers.

    Example:
        >>> "warmup_steps" in whole_numbers("introspective", ObjectiveOptions())
        True
    """
    name = parts_of(spec)[-1].partition(":")[0]
    base = getattr(options, name, None)
    hints = {} if base is None else get_type_hints(type(base))
    return {option for option, hint in hints.items() if hint is int}


def lies_in(value: object, tunable: Tunable) -> bool:
    """Whether a value is one that a search might draw.

    Example:
        >>> from selfexplain.objectives import Range
        >>> lies_in(0.1, Range(0.02, 0.3)), lies_in("softmax", Choice("zipf"))
        (True, False)
    """
    if isinstance(tunable, Choice):
        return value in tunable.values
    return isinstance(value, int | float) and tunable.low <= value <= tunable.high


def _text(value: Value) -> str:
    """As `resolve` reads it; three digits are more than a search of some trials can tell apart."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)
