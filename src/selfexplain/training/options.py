"""Options of the training loop."""

import math
from dataclasses import dataclass, fields
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
    compile: bool = False
    """Compile the model's blocks with torch.compile, which takes a while before the first step. For
    long runs on a GPU, together with cuda_graph. Numbers differ by rounding from those without."""
    cuda_graph: bool = False
    """Record a step as a CUDA graph and replay it, on one GPU: for small networks, whose short
    kernels Python starts more slowly than they run. Objectives whose steps cannot be recorded train
    as usual."""

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        for field in fields(self):
            number = getattr(self, field.name)
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"{field.name} is {number}; pass a finite number")
        for name in ("epochs", "batch_size"):
            _require(getattr(self, name) >= 1, name, self, "a whole number of at least 1")
        for name in ("weight_decay", "warmup_epochs", "clip"):
            _require(getattr(self, name) >= 0, name, self, "a number of at least 0")
        _require(self.lr > 0, "lr", self, "a number above 0")
        _require(self.momentum > 0, "momentum", self, "a number above 0, as Nesterov's method asks")
        if self.cuda_graph and self.precision == "fp16":
            raise InputError("cuda_graph goes with bf16 or fp32; pass --precision bf16")
        _require(0 <= self.ema < 1, "ema", self, "0 for none, or a decay below 1")
        most = f"fewer than the {self.epochs} epochs"
        _require(self.warmup_epochs < self.epochs, "warmup_epochs", self, most)


def _require(holds: bool, name: str, options: TrainingOptions, instead: str) -> None:
    if not holds:
        raise InputError(f"{name} is {getattr(options, name):g}; pass {instead}")
