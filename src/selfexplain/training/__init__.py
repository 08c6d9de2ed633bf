"""The training loop and what it needs: options, schedule, checkpoints, logs."""

from selfexplain.training.compiling import CompiledParts
from selfexplain.training.loop import DivergedError, train
from selfexplain.training.options import TrainingOptions
from selfexplain.training.processes import joined_processes

__all__ = ["CompiledParts", "DivergedError", "TrainingOptions", "joined_processes", "train"]
