"""Options of the training loop."""

from dataclasses import dataclass
from typing import Annotated, Literal

from selfexplain.errors import InputError
from selfexplain.limits import (
    Count,
    Limits,
    NotNegative,
    OptionError,
    Positive,
    ShareBelowOne,
    check_options,
)

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

    epochs: Count = 30
    """Passes over the training images."""
    batch_size: Count = 128
    """Images in a step, over all processes together."""
    lr: Positive = 0.1
    """Largest learning rate."""
    momentum: Annotated[float, Limits(above=0, below=1)] = 0.9
    """Momentum of Nesterov's method."""
    weight_decay: NotNegative = 5e-4
    """L2 weight decay, on all parameters."""
    warmup_epochs: NotNegative = 0.0
    """Epochs over which the learning rate grows linearly from zero."""
    clip: NotNegative = 0.0
    """Largest norm of the gradient; 0 for no clipping."""
    ema: ShareBelowOne = 0.0
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
        check_options(self)
        if self.cuda_graph and self.precision == "fp16":
            raise InputError("cuda_graph goes with bf16 or fp32; pass --precision bf16")
        if not self.warmup_epochs < self.epochs:
            raise OptionError(
                f"warmup_epochs is {self.warmup_epochs:g}; pass fewer than the {self.epochs} "
                "epochs",
                type(self),
                "warmup_epochs",
            )
