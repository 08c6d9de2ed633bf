"""Options of the training loop."""

from dataclasses import dataclass
from typing import Annotated, Literal

from selfexplain.errors import InputError
from selfexplain.limits import (
    Count,
    Limits,
    Natural,
    NotNegative,
    OptionError,
    Positive,
    ShareBelowOne,
    check_options,
)

Precision = Literal["fp32", "bf16", "fp16"]
OptimizerName = Literal["sgd", "adamw", "muon"]
LR: dict[OptimizerName, float] = {"sgd": 0.1, "adamw": 1e-3, "muon": 1e-3}
"""Optimizer -> largest learning rate, where none is given."""
WEIGHT_DECAY: dict[OptimizerName, float] = {"sgd": 5e-4, "adamw": 0.05, "muon": 0.05}
"""Optimizer -> weight decay, where none is given. With the rates above all shrink weights alike, by
5e-5 of themselves in a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOptions:
    """How the weights are updated: an optimizer, and a cosine schedule after warm-up.

    Raises:
        InputError: a value is out of its limits.

    Example:
        >>> TrainingOptions(epochs=200).batch_size
        128
    """

    epochs: Count = 30
    """Passes over the training images."""
    batch_size: Count = 128
    """Global batch size: images per step over all processes."""
    optimizer: OptimizerName = "sgd"
    """sgd, with Nesterov momentum; adamw; or muon (PyTorch 2.9 or later) for the weights of hidden
    layers, with adamw for all other parameters."""
    lr: Positive | None = None
    """Largest learning rate; None for 0.1 with sgd, 0.001 with adamw and muon."""
    momentum: Annotated[float, Limits(above=0, below=1)] = 0.9
    """Momentum of sgd and muon; first beta of adamw."""
    weight_decay: NotNegative | None = None
    """Weight decay; None for 0.0005 with sgd (added to the gradient), 0.05 with adamw and muon
    (decoupled from it)."""
    decay_vectors: bool = True
    """Apply weight decay to biases and normalisation scales too."""
    freeze: str | None = None
    """Fine-tuning: train only what comes after this layer, named as in the model; all trains the
    head alone, on features that are computed once. None trains everything."""
    freeze_norm: bool = False
    """Fine-tuning: let every BatchNorm keep the statistics that it came with; its scale and shift
    are trained. A few photographs estimate them worse than the images of the pretraining did."""
    head_epochs: Natural = 0
    """Fine-tuning: epochs in which only the head is trained, on features that are computed once,
    before the epochs in which everything is."""
    body_lr: Positive = 1.0
    """Fine-tuning: factor on the learning rate of all layers before the head."""
    layer_decay: Annotated[float, Limits(above=0, most=1)] = 1.0
    """Fine-tuning: additional factor on the learning rate from each block to the one before it."""
    keep_best: bool = False
    """Also keep the weights of the epoch with the highest validation accuracy, in best.safetensors;
    requires --validation. The result is still the last epoch's."""
    patience: Natural = 0
    """Stop when the validation accuracy has not risen for this many epochs; requires --validation.
    0 never stops early."""
    warmup_epochs: NotNegative = 0.0
    """Epochs over which the learning rate increases linearly from zero."""
    clip: NotNegative = 0.0
    """Maximum gradient norm; 0 for no clipping."""
    ema: ShareBelowOne = 0.0
    """Decay of an exponential moving average of the weights, which is then evaluated; 0 for
    none."""
    precision: Precision = "fp32"
    """Arithmetic: fp32, or bf16 / fp16 mixed with fp32 weights."""
    sync_batchnorm: bool = False
    """With several processes, on GPUs: BatchNorm normalises with the mean and variance of the
    global batch instead of each process's part (torch's SyncBatchNorm). A single process does so
    anyway."""
    channels_last: bool = True
    """Use torch.channels_last memory format for images and filters; usually faster."""
    compile: bool = False
    """Compile the model's blocks with torch.compile, which takes a while before the first step. For
    long runs on a GPU, together with --cuda-graph. Results differ by rounding."""
    cuda_graph: bool = False
    """Capture a step as a CUDA graph and replay it, on one GPU: for small networks, whose short
    kernels Python launches more slowly than they run. Objectives whose steps cannot be captured
    train as usual."""

    @property
    def largest_lr(self) -> float:
        """The learning rate that is given, or that of the optimizer."""
        return LR[self.optimizer] if self.lr is None else self.lr

    @property
    def used_weight_decay(self) -> float:
        """The weight decay that is given, or that of the optimizer."""
        return WEIGHT_DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        check_options(self)
        if self.cuda_graph and self.precision == "fp16":
            raise InputError("cuda_graph goes with bf16 or fp32; pass --precision bf16")
        if self.sync_batchnorm and self.freeze_norm:
            raise OptionError(
                "sync_batchnorm is for statistics that are computed in training, and freeze_norm "
                "keeps the old ones; pass --no-freeze-norm, or leave out --sync-batchnorm",
                type(self),
                "sync_batchnorm",
            )
        if not self.warmup_epochs < self.epochs:
            raise OptionError(
                f"warmup_epochs is {self.warmup_epochs:g}; pass fewer than the {self.epochs} "
                "epochs",
                type(self),
                "warmup_epochs",
            )
