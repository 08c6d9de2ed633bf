"""What an objective's options class declares is what its constructor takes."""

import dataclasses
import inspect
import math
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from selfexplain.errors import InputError
from selfexplain.experiments.objectives import MIXERS, OBJECTIVES
from selfexplain.experiments.options import RunConfig
from selfexplain.introspection import Introspective
from selfexplain.models import build_model
from selfexplain.objectives import Mixing, ObjectiveContext, Standard
from selfexplain.objectives.options import CLASSES, ObjectiveOptions
from selfexplain.objectives.tf_kd import PUBLISHED

KINDS = {**OBJECTIVES, **MIXERS}
OPTIONS = ObjectiveOptions()
WITH_OPTIONS = [field.name for field in dataclasses.fields(OPTIONS)]
DECLARED = [
    (name, field)
    for name in WITH_OPTIONS
    if name != "introspective"  # which is given them as one object
    for field in dataclasses.fields(getattr(OPTIONS, name))
]
IDS = [f"{name}.{field.name}" for name, field in DECLARED]


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """What the constructor takes, and what is made of a run's context in place of it."""
    kind = KINDS[name]
    makers = (kind.__init__, getattr(kind, "around", kind.from_context))
    return {p.name: p for maker in makers for p in inspect.signature(maker).parameters.values()}


def test_every_group_of_options_has_an_objective_of_its_name() -> None:
    assert set(WITH_OPTIONS) == set(KINDS) - {"standard"}
    assert OBJECTIVES["introspective"] is Introspective


@pytest.mark.parametrize(("name", "field"), DECLARED, ids=IDS)
def test_the_constructor_has_the_default_that_is_declared(name: str, field: Any) -> None:
    assert parameters(name)[field.name].default is field.default


def test_every_choice_of_a_constructor_can_be_made_on_the_command_line() -> None:
    """A parameter with a value for a default, as options have it, is declared as one."""
    not_options = {("mixup", "seed"), ("cutmix", "seed")}  # of the run
    undeclared = {
        (name, parameter.name)
        for name, kind in KINDS.items()
        for parameter in inspect.signature(kind).parameters.values()
        if isinstance(parameter.default, (bool, int, float, str))
        and not hasattr(getattr(OPTIONS, name, None), parameter.name)
    }
    assert undeclared == not_options


def refused() -> Iterator[tuple[str, str, object]]:
    """Objective, option, and a value that it must not have."""
    for name, field in DECLARED:
        hint = get_type_hints(type(getattr(OPTIONS, name)))[field.name]
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
        if get_origin(hint) is Literal:
            yield name, field.name, "absent"
        elif kinds[0] in (int, float):
            yield name, field.name, math.nan
            yield name, field.name, -1e3


@pytest.mark.parametrize(("name", "option", "value"), list(refused()))
def test_the_constructor_refuses_what_is_out_of_the_limits(
    name: str, option: str, value: object
) -> None:
    def model() -> Any:
        return build_model("small_cnn", num_classes=3, in_channels=1)

    context = ObjectiveContext(
        num_classes=3, image_shape=(1, 8, 8), num_images=4, make_model=model, teacher=model()
    )
    kind = KINDS[name]
    inside = Standard(model()) if issubclass(kind, Mixing) else model()
    make = getattr(kind, "around", kind.from_context)
    with pytest.raises(InputError, match=rf"\b{option} is .*pass (a|one of)"):
        make(inside, context, **{option: value})


def test_help_names_every_objective() -> None:
    said = inspect.getsource(RunConfig)
    assert [name for name in CLASSES if name not in said] == ["distil_part"]  # of study-kd


def test_help_says_what_tf_kd_takes_for_none() -> None:
    said = " ".join(inspect.getsource(type(OPTIONS.tf_kd)).split())
    for option in ("alpha", "temperature"):
        virtual, trained = (PUBLISHED[kind][option] for kind in ("virtual", "self"))
        assert f"None for {virtual:g} (virtual) or {trained:g}" in said
