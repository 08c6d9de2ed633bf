"""The training loop and what it needs: options, schedule, checkpoints, logs."""

from selfexplain.training.loop import DivergedError, train
from selfexplain.training.options import TrainingOptions

__all__ = ["DivergedError", "TrainingOptions", "train"]
