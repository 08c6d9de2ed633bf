"""From an objective's name on the command line to the objective."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args, get_type_hints

from torch import nn

from selfexplain.errors import InputError
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
    ConfidencePenalty,
    ContrastiveGradCam,
    DistilPart,
    LabelSmoothing,
    LearnerCritic,
    Objective,
    ObjectiveContext,
    OnlineLabelSmoothing,
    SaliencyGuided,
    Standard,
    TfKD,
    ZipfLabelSmoothing,
)
from selfexplain.recipes.objective_options import ObjectiveOptions
from selfexplain.recipes.partners import PARTNERS, check_partners, split_spec

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
    beside: Callable[[Objective], Objective] = lambda objective: objective,
) -> Objective:
    """Build an objective around a model.

    Args:
        spec: `NAME`, or `NAME:option=value,option=value` to differ from `options`; before it, each
            with a `+` after it, any number of partners that mix images, specified alike.
        model: the model to be trained.
        options: options of all objectives.
        context: what else some objectives need to know of the run.
        beside: puts another loss beside the objective's, inside the partners, so that both see the
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
        objective = OBJECTIVES[name].in_context(model, context, **values)
    objective = beside(objective)
    for partner in reversed(split_spec(spec)[0]):
        name, values = _named(partner, options)
        with _said_of(name, PARTNERS[name]):
            objective = PARTNERS[name].around(objective, context, **values)
    return objective


def resolve(spec: str, options: ObjectiveOptions) -> tuple[str, dict[str, Any]]:
    """Name and option values of a spec's objective; partners before it are checked too.

    Raises:
        InputError: as `build_objective`, but for values that do not fit.

    Example:
        >>> resolve("mixup+label_smoothing:smoothing=0.2", ObjectiveOptions())
        ('label_smoothing', {'smoothing': 0.2})
    """
    partners, objective = split_spec(spec)
    for partner in partners:
        _named(partner, options)
    name, values = _named(objective, options)
    check_partners(partners, name, OBJECTIVES)
    return name, values


def option_values(spec: str, options: ObjectiveOptions) -> dict[str, Any]:
    """Option values of a spec's objective, and those of its partners under `PARTNER.option`.

    Raises:
        InputError: as `resolve`.

    Example:
        >>> option_values("mixup+label_smoothing:smoothing=0.2", ObjectiveOptions())
        {'smoothing': 0.2, 'mixup.alpha': 1.0, 'mixup.probability': 1.0}
    """
    _, values = resolve(spec, options)
    for partner in split_spec(spec)[0]:
        name, given = _named(partner, options)
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
    if name not in OBJECTIVES and name not in PARTNERS:
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
