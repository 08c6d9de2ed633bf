"""Options of the training loop."""

from dataclasses import dataclass
from typing import Literal

from selfexplain.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOptions:
    """How the weights are moved. SGD with Nesterov momentum; cosine schedule after warm-up.

    Raises:
        InputError: a value is out of its limits.

    Example:
        >>> TrainingOptions(epochs=200).batch_size
        128
    """

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 128
    """Images in a step, over all processes together."""
    lr: float = 0.1
    """Largest learning rate."""
    momentum: float = 0.9
    """Momentum of Nesterov's method."""
    weight_decay: float = 5e-4
    """L2 weight decay, on all parameters."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate grows linearly from zero."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 for no clipping."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is evaluated; 0 for
    none."""
    precision: Precision = "fp32"
    """Arithmetic: fp32, or bf16 / fp16 mixed with fp32 weights."""
    channels_last: bool = True
    """Keep images and filters with the channels innermost in memory; usually faster."""

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        for name, value in {"epochs": self.epochs, "batch_size": self.batch_size}.items():
            if value < 1:
                raise InputError(f"{name} is {value}; pass a whole number of at least 1")
        if self.lr <= 0:
            raise InputError(f"lr is {self.lr:g}; pass a number above 0")
        for name, number in {
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "warmup_epochs": self.warmup_epochs,
            "clip": self.clip,
        }.items():
            if number < 0:
                raise InputError(f"{name} is {number:g}; pass a number of at least 0")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema is {self.ema:g}; pass 0 for none, or a decay below 1")
        if self.momentum == 0:
            raise InputError("momentum is 0, which Nesterov's method does not allow; pass 0.9")
