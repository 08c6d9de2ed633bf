"""timm's own training script with an objective in place of its classification loss.

    python -m selfexplain.adapters.timm_script introspective train.py --model resnet18 ...

`train.py` is that of timm's repository; everything after its name is its own. The options after
the colon are the objective's (`selfexplain train --help` lists them).
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import timm.task
from torch import nn

from selfexplain.adapters.timm import ObjectiveTask
from selfexplain.errors import InputError, exit_on_bad_input
from selfexplain.experiments.objectives import build_objective
from selfexplain.objectives import Objective, ObjectiveContext
from selfexplain.objectives.options import ObjectiveOptions


def objective_for(spec: str, model: nn.Module) -> Objective:
    """The objective of a spec around a model of timm.

    Raises:
        InputError: there is no such objective, or it needs what the script does not give: the
            images' places in the data set, or a trained teacher.
    """
    settings: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    context = ObjectiveContext(
        num_classes=model.num_classes,  # type: ignore[arg-type]
        image_shape=settings["input_size"],
        num_images=0,
        make_model=lambda: timm.create_model(
            settings["architecture"], num_classes=model.num_classes
        ),
    )
    objective = build_objective(spec, model, ObjectiveOptions(), context)
    if objective.wants_indices:
        raise InputError(
            f"{spec} stores data for each image, and timm's script does not say which image is "
            "which; pass another objective, or use selfexplain train"
        )
    return objective


def run_script(spec: str, script: Path, arguments: Sequence[str]) -> None:
    """Run timm's training script with an objective.

    Args:
        spec: of the objective.
        script: timm's `train.py`.
        arguments: the script's.

    Raises:
        InputError: there is no such file, or the objective cannot be used.
    """
    if not script.is_file():
        raise InputError(f"there is no file {script}; pass timm's train.py")

    def task(model: nn.Module, criterion: nn.Module | None = None, **options: Any) -> ObjectiveTask:
        del criterion  # the objective has its own
        return ObjectiveTask(objective_for(spec, model), **options)

    with (
        patch.object(timm.task, "ClassificationTask", task),
        patch.object(sys, "argv", [str(script), *arguments]),
    ):
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    with exit_on_bad_input("timm_script"):
        if len(sys.argv) < 3:
            raise InputError("pass an objective and timm's train.py, then the script's arguments")
        run_script(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
