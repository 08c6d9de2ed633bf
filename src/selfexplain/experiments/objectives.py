"""From an objective's name on the command line to the objective."""

import copy
import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any, get_type_hints

import torch
from torch import nn

from selfexplain.errors import InputError, first_line
from selfexplain.experiments.specs import read_options
from selfexplain.introspection.options import FORMER_NAMES
from selfexplain.lazy import import_named
from selfexplain.objectives import Choice, Mixing, Objective, ObjectiveContext
from selfexplain.objectives.mixing import refusal
from selfexplain.objectives.options import CLASSES, MIXER_CLASSES, ObjectiveOptions, parts_of
from selfexplain.objectives.shared.base import Tunable

# What may stand before an objective on the command line and mix images for it.


MIXERS: dict[str, type[Mixing]] = {n: resolve_name(place) for n, place in MIXER_CLASSES.items()}
"""Name -> class."""


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


def check_mixers(mixers: list[str], name: str) -> None:
    """Raise InputError if the objective of this name cannot use the mixers' mixed images."""
    if mixers and (reason := refusal(objective_class(name))):
        others = [other for other, kind in OBJECTIVES.items() if not refusal(kind)]
        mixer = mixers[-1].partition(":")[0]
        raise InputError(f"{name} {reason}; after {mixer}+ pass {' or '.join(others)}")


OBJECTIVES: dict[str, type[Objective]] = {n: resolve_name(p) for n, p in CLASSES.items()}
"""Name -> class."""


# Objectives of the user's own, by `package.module:Class`.

OWN = re.compile(r"[^:=,]+:[^\W\d][\w.]*(:|$)")
"""What the spec of one begins with."""


def is_own_objective(part: str) -> bool:
    """Whether a part of a spec stands for a class of the user's own, which is imported."""
    name = part.partition(":")[0]
    return name not in OBJECTIVES and name not in MIXERS and OWN.match(part) is not None


def split_options(part: str) -> tuple[str, str | None]:
    """Name of a part of a spec, and the text of its options; None if it has no place for any."""
    name, colon, rest = part.partition(":")
    if is_own_objective(part):
        own, colon, rest = rest.partition(":")
        name = f"{name}:{own}"
    return name, rest if colon else None


def objective_class(name: str) -> type[Objective]:
    """The class of this name, one of the user's own imported."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    if not is_own_objective(name):
        near = difflib.get_close_matches(name, OBJECTIVES, n=1)
        raise InputError(
            f"there is no objective {name!r}; pass {' or '.join(near or OBJECTIVES)}, or your own "
            "as package.module:Class"
        )
    try:
        found = import_named(name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        near = difflib.get_close_matches(name.partition(":")[0], OBJECTIVES, n=1, cutoff=0.8)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(
            f"objective {name!r} cannot be imported ({kind}{first_line(error)}){meant}; pass "
            "package.module:Class, with the module in this directory or on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Objective)):
        what = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise InputError(
            f"objective {name!r} is not an objective ({what}); pass a subclass of "
            "selfexplain.objectives.Objective"
        )
    return found


def _own_parameters(kind: type[Objective]) -> dict[str, inspect.Parameter]:
    """The parameters of a class's constructor but for the model, which comes first."""
    _, *parameters = inspect.signature(kind).parameters.values() or [None]
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p for p in parameters if p is not None and p.kind not in several}


def _own_hints(kind: type[Objective]) -> dict[str, Any]:
    """Option -> type, as the constructor declares it or as its default has it."""
    try:
        declared = get_type_hints(kind.__init__)
    except Exception:  # a hint may name what is imported for type checkers alone
        declared = {}
    return {
        name: declared.get(name, str if p.default in (p.empty, None) else type(p.default))
        for name, p in _own_parameters(kind).items()
    }


def _check_own(name: str, given: Mapping[str, Any]) -> None:
    """Raise InputError if the constructor of a user's class needs more than a model and these."""
    kind = objective_class(name)
    below = kind.__mro__[: kind.__mro__.index(Objective)]
    if any("from_context" in vars(each) for each in below):
        return  # which may give the rest
    lacking = [
        p.name
        for p in _own_parameters(kind).values()
        if p.default is p.empty and p.name not in given
    ]
    if lacking:
        raise InputError(
            f"objective {name!r} needs {' and '.join(lacking)}, without a default; pass "
            f"{name}:{','.join(f'{each}=VALUE' for each in lacking)}, or give the class an "
            "from_context that knows"
        )


def _build_own(
    name: str, model: nn.Module, context: ObjectiveContext, values: Mapping[str, Any]
) -> Objective:
    try:
        objective = objective_class(name).from_context(model, context, **values)
    except InputError:
        raise
    except Exception as error:  # a user's class may raise anything
        raise InputError(
            f"objective {name!r} could not be built ({type(error).__name__}: {first_line(error)}); "
            "it is called with the model and the options of its spec"
        ) from error
    if not isinstance(getattr(objective, "model", None), nn.Module):
        raise InputError(
            f"objective {name!r} has no model; call super().__init__(model) in its constructor"
        )
    return objective


def check_step(
    objective: Objective, spec: str, shape_CHW: tuple[int, int, int], classes: int
) -> None:
    """Raise InputError unless a user's objective can take a step; others are left alone.

    A copy takes it, on two black images.

    Example:
        >>> from selfexplain.objectives import Standard
        >>> check_step(Standard(nn.Flatten()), "standard", (1, 8, 8), 64)
    """
    name = split_options(split_spec(spec)[1])[0]
    if not is_own_objective(name):
        return
    y_B, index_B = torch.tensor([0, classes - 1]), torch.tensor([0, 1])
    batch = (torch.zeros(2, *shape_CHW), y_B, index_B)
    try:
        trial = copy.deepcopy(objective).train()
    except Exception:  # what cannot be copied is looked at in its first step of training
        return
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            trial.begin_epoch(0, 1)
            trial(*(batch if trial.wants_indices else batch[:2]))["loss"].backward()
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except Exception as error:  # a user's class may raise anything
        raise InputError(
            f"objective {name!r} cannot take a step ({type(error).__name__}: {first_line(error)}); "
            "it is called with images (B, C, H, W) and labels (B,)"
        ) from error


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
            with a `+` after it, any number of mixers that mix images, specified alike. The name
            of an objective of your own is `package.module:Class`.
        model: the model to be trained.
        options: options of all objectives.
        context: what else some objectives need to know of the run.
        wrap: adds another loss to the objective's, inside the mixers, so that both see the
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
    kind = objective_class(name)
    with _said_of(name, kind):
        if is_own_objective(name):
            objective = _build_own(name, model, context, values)
        else:
            objective = kind.from_context(model, context, **values)
    objective = wrap(objective)
    for mixer in reversed(split_spec(spec)[0]):
        name, values = _named(mixer, options)
        with _said_of(name, MIXERS[name]):
            objective = MIXERS[name].around(objective, context, **values)
    return objective


def resolve(spec: str, options: ObjectiveOptions) -> tuple[str, dict[str, Any]]:
    """Name and option values of a spec's objective; mixers before it are checked too.

    Of an objective of the user's own, the values that the spec gives.

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
    check_mixers(mixers, name)
    return name, values


def option_values(spec: str, options: ObjectiveOptions) -> dict[str, Any]:
    """Option values of a spec's objective, and those of its mixers under `MIXER.option`.

    Raises:
        InputError: as `resolve`.

    Example:
        >>> option_values("mixup+label_smoothing:smoothing=0.2", ObjectiveOptions())
        {'smoothing': 0.2, 'mixup.alpha': 1.0, 'mixup.probability': 1.0}
    """
    name, values = resolve(spec, options)
    if is_own_objective(name):
        parameters = _own_parameters(objective_class(name))
        values = {n: p.default for n, p in parameters.items() if p.default is not p.empty} | values
    for mixer in split_spec(spec)[0]:
        name, given = _named(mixer, options)
        values |= {f"{name}.{option}": value for option, value in given.items()}
    return values


def teacher_spec_of(spec: str, options: ObjectiveOptions) -> str | None:
    """Spec of the objective that trains the teacher of this one; None if it needs no teacher."""
    name, values = resolve(spec, options)
    return objective_class(name).teacher_spec(values)


def _named(part: str, options: ObjectiveOptions) -> tuple[str, dict[str, Any]]:
    """Name and option values of one part of a spec."""
    name, overrides = split_options(part)
    if name not in MIXERS:
        objective_class(name)
    base = getattr(options, name, None)
    given = read_options(part, name, overrides, _hints(name, options), FORMER_NAMES)
    if is_own_objective(name):
        _check_own(name, given)
        return name, given
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
        if re.search(rf"\b({re.escape(name)}|{kind.__name__})\b", str(error)):
            raise
        raise InputError(f"{name}: {error}") from error


def _hints(name: str, options: ObjectiveOptions) -> dict[str, Any]:
    """Option -> type, of an objective or a mixer."""
    if is_own_objective(name):
        return _own_hints(objective_class(name))
    base = getattr(options, name, None)
    return {} if base is None else get_type_hints(type(base))


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
    parts = [(prefix, *split_options(part)) for prefix, part in _prefixed(spec)]
    fixed = {
        f"{prefix}{each.partition('=')[0]}"
        for prefix, _, given in parts
        for each in (given or "").split(",")
    }
    return {
        f"{prefix}{option}": tunable
        for prefix, name, _ in parts
        for option, tunable in (MIXERS.get(name) or objective_class(name)).tunable.items()
        if f"{prefix}{option}" not in fixed
    }


def with_options(spec: str, options: Mapping[str, Value]) -> str:
    """A spec that has these options, named as in `free_options`, too."""
    made = []
    for prefix, part in _prefixed(spec):
        own = [
            f"{key.removeprefix(prefix)}={_text(value)}"
            for key, value in options.items()
            if "".join(key.rpartition(".")[:2]) == prefix
        ]
        sign = ":" if split_options(part)[1] is None else ","
        made.append(part + sign + ",".join(own) if own else part)
    return "+".join(made)


def whole_numbers(spec: str, options: ObjectiveOptions) -> set[str]:
    """The options of a spec, named as in `free_options`, that are whole numbers."""
    whole = set()
    for prefix, part in _prefixed(spec):
        hints = _hints(split_options(part)[0], options)
        whole |= {f"{prefix}{option}" for option, hint in hints.items() if hint is int}
    return whole


def lies_in(value: object, tunable: Tunable) -> bool:
    """Whether a value is one that a search might draw."""
    if isinstance(tunable, Choice):
        return value in tunable.values
    return isinstance(value, int | float) and tunable.low <= value <= tunable.high


def _prefixed(spec: str) -> list[tuple[str, str]]:
    """The parts of a spec, each after what its options' names begin with."""
    *mixers, objective = parts_of(spec)
    return [*((f"{p.partition(':')[0]}.", p) for p in mixers), ("", objective)]


def _text(value: Value) -> str:
    """As `resolve` reads it; three digits are finer than a search of some trials can resolve."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)
