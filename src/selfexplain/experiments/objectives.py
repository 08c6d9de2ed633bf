"""From an objective's name on the command line to the objective."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args, get_type_hints

from torch import nn

from selfexplain.errors import InputError
from selfexplain.experiments.objective_options import ObjectiveOptions, parts_of
from selfexplain.introspection import Introspective, OwnMass
from selfexplain.objectives import (
    BYOT,
    CSKD,
    DKD,
    DLB,
    DML,
    KD,
    PSKD,
    AttentionSeparability,
    BornAgain,
    Choice,
    ConfidencePenalty,
    ContrastiveGradCam,
    CutMix,
    DistilPart,
    LabelSmoothing,
    LearnerCritic,
    Mixing,
    Mixup,
    Objective,
    ObjectiveContext,
    OnlineLabelSmoothing,
    SaliencyGuided,
    Standard,
    TfKD,
    ZipfLabelSmoothing,
)
from selfexplain.objectives.mixing import refusal
from selfexplain.objectives.shared.base import Tunable

# What may stand before an objective on the command line and mix images for it.


MIXERS: dict[str, type[Mixing]] = {
    "mixup": Mixup,
    "cutmix": CutMix,
}
"""Name -> class. Options are the field of its name in `ObjectiveOptions`."""


def split_spec(spec: str) -> tuple[list[str], str]:
    """Specs of the mixers, the outermost first, and of the objective that they mix for.

    Raises:
        InputError: something else stands before the objective, or there is no objective.

    Example:
        >>> split_spec("cutmix:alpha=0.5+label_smoothing:smoothing=0.2")
        (['cutmix:alpha=0.5'], 'label_smoothing:smoothing=0.2')
    """
    *mixers, objective = parts_of(spec)
    for part in mixers:
        name = part.partition(":")[0]
        if name not in MIXERS:
            raise InputError(
                f"{name!r} in {spec!r} mixes no images; before a + pass {' or '.join(MIXERS)}"
            )
    names = [part.partition(":")[0] for part in mixers]
    if len(set(names)) < len(names):
        raise InputError(f"{spec!r} names a mixer twice; pass each once")
    name = objective.partition(":")[0]
    if name in MIXERS or (mixers and not name):
        mixer = name or mixers[-1].partition(":")[0]
        raise InputError(f"{mixer} mixes images for another objective; pass it as {mixer}+standard")
    return mixers, objective


def check_mixers(mixers: list[str], name: str, objectives: dict[str, type[Objective]]) -> None:
    """Raise InputError if the objective of this name cannot use the mixers' mixed images.

    Example:
        >>> from selfexplain.objectives import Standard
        >>> check_mixers(["mixup"], "standard", {"standard": Standard})
    """
    if mixers and (reason := refusal(objectives[name])):
        others = [other for other, kind in objectives.items() if not refusal(kind)]
        mixer = mixers[-1].partition(":")[0]
        raise InputError(f"{name} {reason}; after {mixer}+ pass {' or '.join(others)}")


OBJECTIVES: dict[str, type[Objective]] = {
    "standard": Standard,
    "label_smoothing": LabelSmoothing,
    "confidence_penalty": ConfidencePenalty,
    "introspective": Introspective,
    "own_mass": OwnMass,
    "dml": DML,
    "byot": BYOT,
    "saliency_guided": SaliencyGuided,
    "cgc": ContrastiveGradCam,
    "icasc": AttentionSeparability,
    "lsx": LearnerCritic,
    "kd": KD,
    "cs_kd": CSKD,
    "ps_kd": PSKD,
    "tf_kd": TfKD,
    "ols": OnlineLabelSmoothing,
    "zipf": ZipfLabelSmoothing,
    "dlb": DLB,
    "distil_part": DistilPart,
    "born_again": BornAgain,
    "dkd": DKD,
}
"""Name -> class. Options of an objective, where it has any, are the field of its name in
`ObjectiveOptions`."""


def build_objective(
    spec: str,
    model: nn.Module,
    options: ObjectiveOptions,
    context: ObjectiveContext,
    wrap: Callable[[Objective], Objective] = lambda objective: objective,
) -> Objective:
    """Build an objective around a model.

    Args:
        spec: `NAME`, or `NAME:option=value,option=value` to differ from `options`; before it, each
            with a `+` after it, any number of mixers that mix images, specified alike.
        model: the model to be trained.
        options: options of all objectives.
        context: what else some objectives need to know of the run.
        wrap: puts another loss beside the objective's, inside the mixers, so that both see the
            mixed images and labels.

    Raises:
        InputError: there is no such objective or option, a value does not fit, or the objective
            cannot use mixed images.

    Example:
        >>> from selfexplain.models import build_model
        >>> def make():
        ...     return build_model("small_cnn", num_classes=5, in_channels=1)
        >>> context = ObjectiveContext(
        ...     num_classes=5, image_shape=(1, 8, 8), num_images=100, make_model=make
        ... )
        >>> spec = "mixup+label_smoothing:smoothing=0.2"
        >>> build_objective(spec, make(), ObjectiveOptions(), context).objective.smoothing
        0.2
    """
    name, values = resolve(spec, options)
    with _said_of(name, OBJECTIVES[name]):
        objective = OBJECTIVES[name].from_context(model, context, **values)
    objective = wrap(objective)
    for mixer in reversed(split_spec(spec)[0]):
        name, values = _named(mixer, options)
        with _said_of(name, MIXERS[name]):
            objective = MIXERS[name].around(objective, context, **values)
    return objective


def resolve(spec: str, options: ObjectiveOptions) -> tuple[str, dict[str, Any]]:
    """Name and option values of a spec's objective; mixers before it are checked too.

    Raises:
        InputError: as `build_objective`, but for values that do not fit.

    Example:
        >>> resolve("mixup+label_smoothing:smoothing=0.2", ObjectiveOptions())
        ('label_smoothing', {'smoothing': 0.2})
    """
    mixers, objective = split_spec(spec)
    for mixer in mixers:
        _named(mixer, options)
    name, values = _named(objective, options)
    check_mixers(mixers, name, OBJECTIVES)
    return name, values


def option_values(spec: str, options: ObjectiveOptions) -> dict[str, Any]:
    """Option values of a spec's objective, and those of its mixers under `MIXER.option`.

    Raises:
        InputError: as `resolve`.

    Example:
        >>> option_values("mixup+label_smoothing:smoothing=0.2", ObjectiveOptions())
        {'smoothing': 0.2, 'mixup.alpha': 1.0, 'mixup.probability': 1.0}
    """
    _, values = resolve(spec, options)
    for mixer in split_spec(spec)[0]:
        name, given = _named(mixer, options)
        values |= {f"{name}.{option}": value for option, value in given.items()}
    return values


def teacher_spec_of(spec: str, options: ObjectiveOptions) -> str | None:
    """Spec of the objective that trains the teacher of this one; None if it needs no teacher.

    Example:
        >>> teacher_spec_of("mixup+kd:alpha=0.5", ObjectiveOptions())
        'standard'
    """
    name, values = resolve(spec, options)
    return OBJECTIVES[name].teacher_spec(values)


def _named(part: str, options: ObjectiveOptions) -> tuple[str, dict[str, Any]]:
    """Name and option values of one part of a spec."""
    name, _, overrides = part.partition(":")
    if name not in OBJECTIVES and name not in MIXERS:
        near = difflib.get_close_matches(name, OBJECTIVES, n=1) or list(OBJECTIVES)
        raise InputError(f"there is no objective {name!r}; pass {' or '.join(near)}")
    base = getattr(options, name, None)
    texts = overrides.split(",") if ":" in part else []
    if "" in texts:
        raise InputError(f"{part!r} has a place for an option and none there; leave out its sign")
    pairs = [_parse(text, name, base) for text in texts]
    given = dict(pairs)
    if len(given) < len(pairs):
        raise InputError(f"{part!r} gives an option twice; pass each once")
    if base is None:
        return name, {}
    with _said_of(name, type(base)):
        return name, dataclasses.asdict(dataclasses.replace(base, **given))


@contextmanager
def _said_of(name: str, kind: type) -> Iterator[None]:
    """Begin what is wrong with this part of a spec with its name, unless it or its class is named.

    A command takes several objectives, of which more than one may have an option of a name.
    """
    try:
        yield
    except InputError as error:
        if re.search(rf"\b({name}|{kind.__name__})\b", str(error)):
            raise
        raise InputError(f"{name}: {error}") from error


def _parse(part: str, name: str, base: Any) -> tuple[str, Any]:
    """One `option=value`, the value in the type of the option."""
    option, equals, text = part.partition("=")
    hints = {} if base is None else get_type_hints(type(base))
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
    for kind, name in ((int, "a whole number"), (float, "a number")):
        if kind in hints:
            try:
                return kind(text)
            except ValueError as error:
                raise ValueError(name) from error
    return text


# Which options of an objective's spec are open to tuning, and a spec with them set.
#
# An option of the objective goes by its name, one of a mixer before it by `MIXER.option`, as
# on the command line: `mixup.alpha`.


Value = str | int | float | bool


def free_options(spec: str) -> dict[str, Tunable]:
    """The tunable options of a spec, of its mixers too, that the spec does not fix.

    Example:
        >>> list(free_options("mixup+label_smoothing"))
        ['mixup.alpha', 'smoothing']
        >>> list(free_options("mixup+label_smoothing:smoothing=0.2"))
        ['mixup.alpha']
    """
    classes = {**OBJECTIVES, **MIXERS}
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
    *mixers, objective = parts_of(spec)
    return [*((f"{p.partition(':')[0]}.", p) for p in mixers), ("", objective)]


def _text(value: Value) -> str:
    """As `resolve` reads it; three digits are more than a search of some trials can tell apart."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)
