"""Where a run's metrics go beside its own files: TensorBoard, Weights & Biases, MLflow."""

from selfexplain.training.loggers.logger import Logger, flat, numbers
from selfexplain.training.loggers.opening import LoggerName, check_installed, opened

__all__ = ["Logger", "LoggerName", "check_installed", "flat", "numbers", "opened"]
