"""Where a run's metrics go besides its own files: TensorBoard, Weights & Biases, MLflow."""

from selfexplain.training.log import Logger, LoggerName, check_installed, flat, numbers, opened

__all__ = ["Logger", "LoggerName", "check_installed", "flat", "numbers", "opened"]
