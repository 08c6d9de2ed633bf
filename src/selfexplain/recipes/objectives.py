"""From an objective's name on the command line to the objective."""

import dataclasses
import difflib
from typing import Any, get_type_hints

from torch import nn

from selfexplain.errors import InputError
from selfexplain.introspection import Introspective
from selfexplain.objectives import (
    DKD,
    KD,
    BornAgain,
    ConfidencePenalty,
    DistilPart,
    LabelSmoothing,
    Objective,
    ObjectiveContext,
    Standard,
)
from selfexplain.recipes.objective_options import ObjectiveOptions

OBJECTIVES: dict[str, type[Objective]] = {
    "standard": Standard,
    "label_smoothing": LabelSmoothing,
    "confidence_penalty": ConfidencePenalty,
    "introspective": Introspective,
    "kd": KD,
    "distil_part": DistilPart,
    "born_again": BornAgain,
    "dkd": DKD,
}
"""Name -> class. Options of an objective, where it has any, are the field of its name in
`ObjectiveOptions`."""


def build_objective(
    spec: str, model: nn.Module, options: ObjectiveOptions, context: ObjectiveContext
) -> Objective:
    """Build an objective around a model.

    Args:
        spec: `NAME`, or `NAME:option=value,option=value` to differ from `options`.
        model: the model to be trained.
        options: options of all objectives.
        context: what else some objectives need to know of the run.

    Raises:
        InputError: there is no such objective or option, or a value does not fit.

    Example:
        >>> from selfexplain.models import build_model
        >>> def make():
        ...     return build_model("small_cnn", num_classes=5, in_channels=1)
        >>> context = ObjectiveContext(
        ...     num_classes=5, image_shape=(1, 8, 8), num_images=100, make_model=make
        ... )
        >>> spec = "label_smoothing:smoothing=0.2"
        >>> build_objective(spec, make(), ObjectiveOptions(), context).smoothing
        0.2
    """
    name, values = resolve(spec, options)
    return OBJECTIVES[name].in_context(model, context, **values)


def resolve(spec: str, options: ObjectiveOptions) -> tuple[str, dict[str, Any]]:
    """Name and option values of an objective's spec.

    Example:
        >>> resolve("label_smoothing:smoothing=0.2", ObjectiveOptions())
        ('label_smoothing', {'smoothing': 0.2})
    """
    name, _, overrides = spec.partition(":")
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(name, OBJECTIVES, n=1) or list(OBJECTIVES)
        raise InputError(f"there is no objective {name!r}; pass {' or '.join(near)}")
    base = getattr(options, name, None)
    given = dict(_parse(part, name, base) for part in overrides.split(",") if part)
    if base is None:
        return name, {}
    return name, dataclasses.asdict(dataclasses.replace(base, **given))


def _parse(part: str, name: str, base: Any) -> tuple[str, Any]:
    """One `option=value`, the value in the type of the option."""
    option, equals, text = part.partition("=")
    hints = {} if base is None else get_type_hints(type(base))
    if not equals or option not in hints:
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
    if hint is bool:
        if text not in {"true", "false"}:
            raise ValueError("true or false")
        return text == "true"
    for kind, name in ((int, "a whole number"), (float, "a number")):
        if hint is kind:
            try:
                return kind(text)
            except ValueError as error:
                raise ValueError(name) from error
    return text
