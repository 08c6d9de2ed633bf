"""The trained teacher of a run: the one that `--teacher` names, or one that is trained first.

A teacher that is trained is a run of its own: the objective's `teacher_spec` with the same options,
on the images that the same seed draws, from a start of its own; in the folder of teachers, where
everyone who needs it finds it. Whoever comes first trains it; whoever comes meanwhile waits. A
teacher that needs a teacher has it trained before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from selfexplain.data import ImageData
from selfexplain.errors import InputError
from selfexplain.experiments.data import Prepared
from selfexplain.experiments.fit.model import build_classifier, build_of, build_seeded
from selfexplain.experiments.objectives import teacher_spec_of
from selfexplain.experiments.options import (
    CompareConfig,
    RunConfig,
    SharedConfig,
    TrainConfig,
    run_name,
    to_dict,
)
from selfexplain.experiments.run_dir import load_weights, read_finished, waited_for
from selfexplain.objectives.options import ObjectiveOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric


# A model that is shown images which were normalised for another.
#
# Shape suffixes: B batch, C channels, H and W space, K classes.


class Renormalised(nn.Module):
    """Takes images of one mean and standard deviation to those that its model was trained with.

    Args:
        model: maps images (B, C, H, W), normalised its own way, to logits (B, K).
        mean_C: mean of the channels that the images come normalised with.
        std_C: and their standard deviation.
        own_mean_C: mean that the model's own images were normalised with.
        own_std_C: and their standard deviation.

    Example:
        >>> import torch
        >>> zero, one = torch.tensor([0.0]), torch.tensor([1.0])
        >>> model = Renormalised(nn.Identity(), zero, one, own_mean_C=one, own_std_C=2 * one)
        >>> model(torch.full((1, 1, 1, 1), 5.0)).item()
        2.0
    """

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean_C: Tensor,
        std_C: Tensor,
        *,
        own_mean_C: Tensor,
        own_std_C: Tensor,
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("scale_C11", (std_C / own_std_C)[:, None, None])
        self.register_buffer("shift_C11", ((mean_C - own_mean_C) / own_std_C)[:, None, None])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        logits_BK: Tensor = self.model(x_BCHW * self.scale_C11 + self.shift_C11)
        return logits_BK


# Which teachers are trained before an objective, and what that adds to its cost.


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
        >>> from selfexplain.experiments.options import DataOptions, TrainConfig
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
        >>> from selfexplain.experiments.options import DataOptions, TrainConfig
        >>> config = TrainConfig(data=DataOptions(data="digits"))
        >>> with_teachers(config, ["kd", "introspective"])
        ('kd', 'introspective', 'standard')
    """
    specs = tuple(specs)
    given = config.teacher is not None
    trained = [t for spec in specs for t in trained_first(spec, config.options, given=given)]
    return tuple(dict.fromkeys((*specs, *trained)))


def with_total_cost(
    config: SharedConfig, specs: Iterable[str], costs: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Costs of specs; where one of them has a teacher, also `total_cost` of each.

    All trainings of a comparison have the same number of steps, so the total is the cost of the
    objective's own step and of a step of each teacher that is trained for it, in standard steps. A
    given teacher counts as 0.

    Example:
        >>> from selfexplain.experiments.options import DataOptions, TrainConfig
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
        ends = [costs[each].get("cost_ci95") for each in chain]
        if None not in ends:  # the ends of a sum, as if all were off to one side
            own[spec]["total_cost_ci95"] = [sum(end) for end in zip(*ends, strict=True)]
    return own


# The single runs that a comparison is made of.


def run_folder(out: Path, spec: str, seed: int) -> Path:
    """Folder of one run of a comparison.

    Example:
        >>> run_folder(Path("out"), "introspective:weight=0.1", 2).as_posix()
        'out/runs/introspective_weight-0.1-seed2'
    """
    return out / "runs" / run_name(spec, seed)


def train_config(config: CompareConfig, spec: str, seed: int, out: Path) -> TrainConfig:
    """The run of one objective and one seed, in `out`/runs; it continues what it finds there.

    Example:
        >>> from selfexplain.experiments.options import DataOptions
        >>> config = CompareConfig(data=DataOptions(data="digits"))
        >>> train_config(config, "standard", 2, Path("out")).out.as_posix()
        'out/runs/standard-seed2'
    """
    names = {field.name for field in fields(config)} & {field.name for field in fields(TrainConfig)}
    shared = {name: getattr(config, name) for name in names - {"out"}}
    shared["teacher"] = given_teacher(config, spec)
    folder = run_folder(out, spec, seed)
    return TrainConfig(**shared, objective=spec, seed=seed, out=folder, resume=True)


StepCallback = Callable[[int, int], None]


class Trainer(Protocol):
    """`run_training`, which calls this module and is therefore handed in."""

    def __call__(
        self,
        config: RunConfig,
        *,
        fabric: Fabric | None,
        data: ImageData | None,
        on_step: StepCallback,
        teachers: Path | None,
    ) -> dict[str, Any]:
        """Train and score as the configuration says."""


def find_teacher(
    config: RunConfig,
    data: ImageData,
    prepared: Prepared,
    *,
    fabric: Fabric,
    folder: Path,
    train: Trainer,
    on_step: StepCallback,
) -> nn.Module | None:
    """Load the teacher of a run, after training it if need be; None if the objective needs none.

    Args:
        config: of the run that the teacher is for.
        data: the data set.
        prepared: its images, with whose mean and standard deviation the teacher will be shown them.
        fabric: where; all of its processes must take part.
        folder: of all teachers.
        train: `run_training`.
        on_step: called after every step with the steps done and those of all the trainings that
            lead to this run's, its own among them.

    Raises:
        InputError: the given teacher is no finished run or does not fit, or is not needed.
    """
    check_teacher_is_needed(config, [config.objective])
    spec = teacher_spec_of(config.objective, config.options)
    if spec is None:
        return None
    ahead = len(trained_first(config.objective, config.options, given=config.teacher is not None))
    if not ahead:
        assert config.teacher is not None
        return load_teacher(config.teacher, data, prepared)
    # Options out of their limits are refused before the teacher's hours of training.
    untrained = stand_in(config, config.objective, data, prepared)
    build_seeded(config, config.objective, config.seed, data, num_images=1, teacher=untrained)
    own = _run_of_teacher(config, spec, folder)

    def step_of_teacher(done: int, total: int) -> None:
        on_step(done, total // ahead * (ahead + 1))

    with waited_for(own.out, fabric):
        train(own, fabric=fabric, data=data, on_step=step_of_teacher, teachers=folder)
    return load_teacher(own.out, data, prepared)


def _run_of_teacher(config: RunConfig, spec: str, folder: Path) -> RunConfig:
    """The run that trains the teacher of another run."""
    return dataclasses.replace(
        config,
        objective=spec,
        out=folder / run_name(spec, config.seed),
        resume=True,
        start_seed=start_of_teacher(spec, config.seed, config.options),
        teacher=given_teacher(config, spec),
    )


def after_teachers(config: RunConfig, on_step: StepCallback) -> StepCallback:
    """Tell of a run's own steps as those that come after its teachers'."""
    ahead = len(trained_first(config.objective, config.options, given=config.teacher is not None))
    return lambda done, total: on_step(done + ahead * total, total * (ahead + 1))


def load_teacher(folder: Path, data: ImageData, prepared: Prepared) -> nn.Module:
    """The model of a finished run, of whatever architecture, for these images and classes.

    Images are normalised by the statistics of the training images; where the run's were others, the
    model is wrapped so that it sees the images as it learned them.

    Raises:
        InputError: the folder holds no finished run, or one of other images or classes.
    """
    run = read_finished(folder)
    for what, its, ours in (
        ("number of classes", run.num_classes, data.num_classes),
        ("shape of an image", run.shape_CHW, data.shape_CHW),
    ):
        if its != ours:
            raise InputError(
                f"the teacher in {folder} has another {what} ({its}) than the data ({ours}); "
                "pass a run on such images"
            )
    with torch.random.fork_rng(devices=[]):
        model = build_of(run)
    load_weights(model, run)
    same = torch.equal(run.mean_C, prepared.mean_C) and torch.equal(run.std_C, prepared.std_C)
    if same:
        return model
    return Renormalised(
        model, prepared.mean_C, prepared.std_C, own_mean_C=run.mean_C, own_std_C=run.std_C
    )


def stand_in(
    config: SharedConfig, spec: str, data: ImageData, prepared: Prepared
) -> nn.Module | None:
    """A teacher that costs what the spec's own does: the given one, or one that is not trained."""
    if teacher_spec_of(spec, config.options) is None:
        return None
    if config.teacher is not None and not trained_first(spec, config.options, given=True):
        return load_teacher(config.teacher, data, prepared)
    with torch.random.fork_rng(devices=[]):
        return build_classifier(
            to_dict(config), num_classes=data.num_classes, shape_CHW=data.shape_CHW
        )
