"""The trained teacher of a run: the one that `--teacher` names, or one that is trained first.

A teacher that is trained is a run of its own: the objective's `teacher_spec` with the same options,
on the images that the same seed draws, from a start of its own; in the folder of teachers, where
everyone who needs it finds it. Whoever comes first trains it; whoever comes meanwhile waits. A
teacher that needs a teacher has it trained before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from selfexplain.data import ImageData
from selfexplain.errors import InputError
from selfexplain.recipes.classifier import build_classifier, build_of, build_seeded
from selfexplain.recipes.finished import load_weights, read_finished
from selfexplain.recipes.folder import run_name, waited_for
from selfexplain.recipes.objectives import teacher_spec_of
from selfexplain.recipes.options import RunConfig, SharedConfig, plain
from selfexplain.recipes.prepare import Prepared
from selfexplain.recipes.renormalised import Renormalised
from selfexplain.recipes.teacher_chain import (
    check_teacher_is_needed,
    given_teacher,
    start_of_teacher,
    trained_first,
)

if TYPE_CHECKING:  # a refusal comes before its seconds of import
    from lightning_fabric import Fabric


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
            plain(config), num_classes=data.num_classes, shape_CHW=data.shape_CHW
        )
