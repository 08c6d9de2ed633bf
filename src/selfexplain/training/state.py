"""A run in progress: what it consists of, and what of it goes into a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from selfexplain.objectives.base import Objective
from selfexplain.training.checkpoint import FORMAT, check_identity, epochs_done, loading_from
from selfexplain.training.options import TrainingOptions
from selfexplain.training.recording import Step

if TYPE_CHECKING:  # a refusal comes before its seconds of import
    from lightning_fabric import Fabric


@dataclass(kw_only=True)
class Run:
    """Everything that a run in progress consists of."""

    objective: Objective
    wrapped: Any
    optimiser: torch.optim.Optimizer
    stepper: Any
    average: AveragedModel | None
    gradients: Step | None = None
    """Forward and backward of the epoch that is walked."""
    epochs_done: int = 0

    @property
    def evaluated_model(self) -> nn.Module:
        """The model whose scores count: the averaged one if there is an average."""
        return self.objective.model if self.average is None else self.average.module

    def buffers(self) -> list[Tensor]:
        """Of the objective and the average: what each process moves by its own images."""
        average = [] if self.average is None else list(self.average.buffers())
        return [*self.objective.buffers(), *average]


def start(objective: Objective, options: TrainingOptions, fabric: Fabric) -> Run:
    """Put an objective on the device, and its optimiser and average beside it."""
    objective.to(fabric.device)
    if options.channels_last:
        objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective.train()
    optimiser = torch.optim.SGD(
        objective.parameters(),
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=True,
    )
    average = None
    if options.ema:
        average = AveragedModel(
            objective.model,
            multi_avg_fn=get_ema_multi_avg_fn(options.ema),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )
    wrapped, stepper = fabric.setup(objective, optimiser)
    return Run(
        objective=objective, wrapped=wrapped, optimiser=optimiser, stepper=stepper, average=average
    )


def state_of(run: Run, fabric: Fabric, identity: str) -> dict[str, Any]:
    """What a checkpoint holds: tensors, numbers and strings."""
    return {
        "format": FORMAT,
        "identity": identity,
        "epochs_done": run.epochs_done,
        "objective": run.objective.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "average": None if run.average is None else run.average.state_dict(),
        "precision": fabric.strategy.precision.state_dict(),
    }


def restore(run: Run, fabric: Fabric, state: dict[str, Any], identity: str, path: Path) -> None:
    """Take a run back to where a checkpoint was made.

    Raises:
        InputError: the checkpoint is of another format or configuration, is damaged, or its
            weights are of another model.
    """
    check_identity(state, identity, path)
    with loading_from(path):
        run.objective.load_state_dict(state["objective"])
        run.optimiser.load_state_dict(state["optimiser"])
        if run.average is not None:
            run.average.load_state_dict(state["average"])
        fabric.strategy.precision.load_state_dict(state["precision"])
        run.epochs_done = epochs_done(state)
