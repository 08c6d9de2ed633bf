"""Which teachers are trained before an objective, and what that adds to its cost."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from selfexplain.errors import InputError
from selfexplain.recipes.objective_options import ObjectiveOptions
from selfexplain.recipes.objectives import teacher_spec_of
from selfexplain.recipes.options import SharedConfig


def trained_first(spec: str, options: ObjectiveOptions, *, given: bool) -> tuple[str, ...]:
    """Specs of the teachers that are trained before a spec, its own teacher first.

    A given teacher stands for the one that was to be trained without a teacher.

    Example:
        >>> trained_first("kd", ObjectiveOptions(), given=False)
        ('standard',)
        >>> trained_first("kd", ObjectiveOptions(), given=True)
        ()
    """
    teacher = teacher_spec_of(spec, options)
    if teacher is None or (given and teacher_spec_of(teacher, options) is None):
        return ()
    return (teacher, *trained_first(teacher, options, given=given))


def start_of_teacher(spec: str, seed: int, options: ObjectiveOptions) -> int:
    """Seed of a teacher's weights and batches: its own; its students do not start as it did.

    Every generation of a chain has another.

    Example:
        >>> start_of_teacher("standard", 1, ObjectiveOptions()) == 2**40 + 1
        True
    """
    generation = 1 + len(trained_first(spec, options, given=False))
    return seed ^ (generation << 40)


def given_teacher(config: SharedConfig, spec: str) -> Path | None:
    """The run that `--teacher` names, for a spec that has use for it.

    Example:
        >>> from selfexplain.recipes.options import DataOptions, TrainConfig
        >>> config = TrainConfig(data=DataOptions(data="digits"), teacher=Path("runs/large"))
        >>> given_teacher(config, "kd").name, given_teacher(config, "standard")
        ('large', None)
    """
    return None if teacher_spec_of(spec, config.options) is None else config.teacher


def check_teacher_is_needed(config: SharedConfig, specs: Iterable[str]) -> None:
    """Raise InputError if a teacher is given to objectives of which none asks for one."""
    specs = tuple(specs)
    if config.teacher is not None and not any(given_teacher(config, spec) for spec in specs):
        raise InputError(
            f"{' and '.join(specs)} learn from no teacher; leave out --teacher, or pass an "
            "objective that has one, such as kd"
        )


def with_teachers(config: SharedConfig, specs: Iterable[str]) -> tuple[str, ...]:
    """The specs, and those of all teachers that are trained for them; each once.

    Example:
        >>> from selfexplain.recipes.options import DataOptions, TrainConfig
        >>> config = TrainConfig(data=DataOptions(data="digits"))
        >>> with_teachers(config, ["kd", "introspective"])
        ('kd', 'introspective', 'standard')
    """
    specs = tuple(specs)
    given = config.teacher is not None
    trained = [t for spec in specs for t in trained_first(spec, config.options, given=given)]
    return tuple(dict.fromkeys((*specs, *trained)))


def with_total_cost(
    config: SharedConfig, specs: Iterable[str], costs: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Costs of specs; where one of them has a teacher, also `total_cost` of each.

    All trainings of a comparison have the same number of steps, so the total is the cost of the
    objective's own step and of a step of each teacher that is trained for it, in standard steps. A
    given teacher counts as 0.

    Example:
        >>> from selfexplain.recipes.options import DataOptions, TrainConfig
        >>> config = TrainConfig(data=DataOptions(data="digits"))
        >>> costs = {"standard": {"cost": 1.0}, "kd": {"cost": 1.5}}
        >>> with_total_cost(config, ["kd"], costs)
        {'kd': {'cost': 1.5, 'total_cost': 2.5}}
    """
    specs, given = tuple(specs), config.teacher is not None
    own = {spec: dict(costs[spec]) for spec in specs}
    if all(teacher_spec_of(spec, config.options) is None for spec in specs):
        return own
    for spec in specs:
        chain = (spec, *trained_first(spec, config.options, given=given))
        own[spec]["total_cost"] = sum(costs[each]["cost"] for each in chain)
    return own
