"""Which options of an objective's spec are open to tuning, and a spec with them set.

An option of the objective goes by its name, one of a partner before it by `PARTNER.option`, as on
the command line: `mixup.alpha`.
"""

from collections.abc import Mapping
from typing import get_type_hints

from selfexplain.objectives import Choice
from selfexplain.objectives.tunable import Tunable
from selfexplain.recipes.objective_options import ObjectiveOptions, parts_of
from selfexplain.recipes.objectives import OBJECTIVES
from selfexplain.recipes.partners import PARTNERS

Value = str | int | float | bool


def free_options(spec: str) -> dict[str, Tunable]:
    """The tunable options of a spec, of its partners too, that the spec does not fix.

    Example:
        >>> list(free_options("mixup+label_smoothing"))
        ['mixup.alpha', 'smoothing']
        >>> list(free_options("mixup+label_smoothing:smoothing=0.2"))
        ['mixup.alpha']
    """
    classes = {**OBJECTIVES, **PARTNERS}
    parts = [(prefix, *part.partition(":")[::2]) for prefix, part in _prefixed(spec)]
    fixed = {f"{p}{each.partition('=')[0]}" for p, _, given in parts for each in given.split(",")}
    return {
        f"{prefix}{option}": tunable
        for prefix, name, _ in parts
        for option, tunable in classes[name].tunable.items()
        if f"{prefix}{option}" not in fixed
    }


def with_options(spec: str, options: Mapping[str, Value]) -> str:
    """A spec that has these options, named as in `free_options`, too.

    Example:
        >>> with_options("introspective:control=permuted", {"weight": 0.123456})
        'introspective:control=permuted,weight=0.123'
        >>> with_options("mixup+label_smoothing", {"mixup.alpha": 0.5, "smoothing": 0.2})
        'mixup:alpha=0.5+label_smoothing:smoothing=0.2'
    """
    made = []
    for prefix, part in _prefixed(spec):
        own = [
            f"{key.removeprefix(prefix)}={_text(value)}"
            for key, value in options.items()
            if "".join(key.rpartition(".")[:2]) == prefix
        ]
        made.append(part + ("," if ":" in part else ":") + ",".join(own) if own else part)
    return "+".join(made)


def whole_numbers(spec: str, options: ObjectiveOptions) -> set[str]:
    """The options of a spec, named as in `free_options`, that are whole numbers.

    Example:
        >>> "warmup_steps" in whole_numbers("mixup+introspective", ObjectiveOptions())
        True
    """
    whole = set()
    for prefix, part in _prefixed(spec):
        base = getattr(options, part.partition(":")[0], None)
        hints = {} if base is None else get_type_hints(type(base))
        whole |= {f"{prefix}{option}" for option, hint in hints.items() if hint is int}
    return whole


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


def _prefixed(spec: str) -> list[tuple[str, str]]:
    """The parts of a spec, each after what its options' names begin with."""
    *partners, objective = parts_of(spec)
    return [*((f"{p.partition(':')[0]}.", p) for p in partners), ("", objective)]


def _text(value: Value) -> str:
    """As `resolve` reads it; three digits are more than a search of some trials can tell apart."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)
