"""The training loop and what it needs: options, schedule, checkpoints, logs."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.training.loop import DivergedError, train
    from selfexplain.training.options import TrainingOptions
    from selfexplain.training.processes import joined_processes
    from selfexplain.training.steps import CompiledParts

__all__ = [
    "CompiledParts",
    "DivergedError",
    "TrainingOptions",
    "joined_processes",
    "train",
]

lazily(
    __name__,
    {
        "steps": "CompiledParts",
        "loop": "DivergedError train",
        "options": "TrainingOptions",
        "processes": "joined_processes",
    },
)
