"""The training loop: any objective, on CPU, one GPU or several processes, through Lightning Fabric.

A run is a function of its seed: the batches are (data/), and the global generator is set at the
start of each epoch from the seed, the epoch and the process. A run that is continued from the
checkpoint of an epoch therefore walks the same path as one that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.multilevel import all_finite
from selfexplain.objectives.base import Objective
from selfexplain.training.checkpoint import load_checkpoint, save_checkpoint
from selfexplain.training.compiling import CompiledParts, compiled_steps
from selfexplain.training.convolutions import autotuned_convolutions
from selfexplain.training.log import EpochLog
from selfexplain.training.loggers import Logger
from selfexplain.training.meter import Meter
from selfexplain.training.options import TrainingOptions
from selfexplain.training.processes import exists_for_all, mean_numbers, take_from_first
from selfexplain.training.recording import gradient_step
from selfexplain.training.schedule import cosine_with_warmup
from selfexplain.training.seeding import epoch_seed, global_generator_kept
from selfexplain.training.state import Run, restore, start, state_of

if TYPE_CHECKING:  # a refusal comes before its seconds of import
    from lightning_fabric import Fabric


FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Our names of arithmetic -> Lightning Fabric's."""


class EpochBatches(Protocol):
    """What the loop asks of the data: a length, and the batches of an epoch."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W) and labels (B,) of each step."""

    def indexed_epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The same with each image's place in the training set (B,)."""


class DivergedError(InputError):
    """The loss or a weight stopped being a finite number.

    Example:
        >>> issubclass(DivergedError, InputError)
        True
    """


def train(
    objective: Objective,
    batches: EpochBatches,
    options: TrainingOptions,
    *,
    fabric: Fabric,
    folder: Path,
    seed: int = 0,
    identity: str = "",
    resume: bool = False,
    loggers: Sequence[Logger] = (),
    before_epoch: Callable[[int], None] = lambda epoch: None,
    after_epoch: Callable[[int, nn.Module], None] = lambda epoch, model: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    score: Callable[[nn.Module], dict[str, float]] | None = None,
) -> nn.Module:
    """Train an objective and return the model to be evaluated (the average, if one is kept).

    Args:
        objective: holds the model; its parameters are trained.
        batches: the training data of this process.
        options: how the weights are moved.
        fabric: where; already launched.
        folder: `checkpoint.pt` and `metrics.jsonl` go here after every epoch.
        seed: of everything random in the steps themselves (dropout and the like).
        identity: a text that stands for the whole configuration; a checkpoint of another one is
            refused.
        resume: continue from the folder's checkpoint if there is one.
        loggers: are given the metrics of every epoch too; those of the first process alone.
        before_epoch: called with the number of epochs done before each that is walked, to set what
            the model's behaviour depends on beside weights and buffers.
        after_epoch: called on the first process after each epoch, counted from 1, with the model
            to be evaluated, before the epoch's checkpoint is written.
        on_step: called after every step with the number of steps done and of the whole run's.
        score: called after every epoch with the model; what it returns is logged.

    Raises:
        InputError: the checkpoint cannot be read or is of another configuration.
        DivergedError: the loss or a weight became NaN or infinite; the checkpoint of the last
            good epoch is kept.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from lightning_fabric import Fabric
        >>> from selfexplain.data import Batches, channel_statistics, load_data
        >>> from selfexplain.models import build_model
        >>> from selfexplain.objectives import Standard
        >>> images = load_data("digits").train.subset(torch.arange(64))
        >>> mean_C, std_C = channel_statistics(images)
        >>> model = train(
        ...     Standard(build_model("small_cnn", num_classes=10, in_channels=1)),
        ...     Batches(images, batch_size=32, mean_C=mean_C, std_C=std_C),
        ...     TrainingOptions(epochs=1),
        ...     fabric=Fabric(accelerator="cpu", devices=1),
        ...     folder=Path(tempfile.mkdtemp()),
        ... )
    """
    run = start(objective, options, fabric)
    parts = CompiledParts(objective) if options.compile else None
    path = folder / "checkpoint.pt"
    if resume and exists_for_all(path):
        restore(run, fabric, load_checkpoint(path), identity, path)
    log = EpochLog(folder, loggers) if fabric.is_global_zero else None
    if log is not None:
        log.cut_after(run.epochs_done)
    with global_generator_kept(fabric.device):
        for epoch in range(run.epochs_done, options.epochs):
            before_epoch(epoch)
            objective.begin_epoch(epoch, options.epochs)
            torch.manual_seed(epoch_seed(seed, epoch, fabric.global_rank))
            compiled = compiled_steps(parts, objective, recorded=options.cuda_graph)
            with autotuned_convolutions(), compiled:
                metrics = _train_epoch(run, batches, options, fabric, epoch, on_step, path)
            take_from_first(run.buffers())
            if score is not None:
                metrics |= score(run.evaluated_model)
            run.epochs_done = epoch + 1
            if log is not None:
                after_epoch(epoch + 1, run.evaluated_model)
                log.write(metrics)
                save_checkpoint(path, state_of(run, fabric, identity))
            fabric.barrier()
    return run.evaluated_model


def _train_epoch(
    run: Run,
    batches: EpochBatches,
    options: TrainingOptions,
    fabric: Fabric,
    epoch: int,
    on_step: Callable[[int, int], None],
    path: Path,
) -> dict[str, float]:
    meter = Meter(every=1 if fabric.device.type == "cpu" else 20)
    started = time.perf_counter()
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    gradients = run.gradients = gradient_step(
        run.objective,
        run.wrapped,
        run.stepper,
        fabric,
        recorded=options.cuda_graph,
        before=run.gradients,
    )
    for step, (x_BCHW, *rest) in enumerate(_steps(run.objective, batches, epoch)):
        _set_learning_rate(run, options, epoch * len(batches) + step, len(batches))
        out = gradients(x_BCHW.contiguous(memory_format=layout), *rest)
        if options.clip:
            # A gradient that is not finite is no error here: fp16 scaling skips such steps, and
            # elsewhere the loss says so in the next one.
            fabric.clip_gradients(
                run.wrapped, run.stepper, max_norm=options.clip, error_if_nonfinite=False
            )
        run.stepper.step()
        if run.average is not None:
            run.average.update_parameters(run.objective.model)
        finite = meter.add(out, rest[0])
        if meter.looked and not _all_agree(fabric, finite):
            raise _diverged(f"the loss became {meter.last_loss:g}", epoch, step, options, path)
        on_step(epoch * len(batches) + step + 1, options.epochs * len(batches))
    weights = [t for t in run.objective.state_dict().values() if t.is_floating_point()]
    if not _all_agree(fabric, meter.finite() and all_finite(weights)):
        raise _diverged("a weight or the loss is not finite", epoch, len(batches), options, path)
    return {
        "epoch": epoch + 1,
        "learning_rate": run.optimiser.param_groups[0]["lr"],
        **mean_numbers(meter.means()),
        "step_seconds": (time.perf_counter() - started) / len(batches),
    }


def _steps(objective: Objective, batches: EpochBatches, epoch: int) -> Iterator[tuple[Tensor, ...]]:
    """What the objective is called with, step by step."""
    return batches.indexed_epoch(epoch) if objective.wants_indices else batches.epoch(epoch)


def _set_learning_rate(run: Run, options: TrainingOptions, step: int, epoch_steps: int) -> None:
    factor = cosine_with_warmup(
        step, options.epochs * epoch_steps, options.warmup_epochs * epoch_steps
    )
    for group in run.optimiser.param_groups:
        group["lr"] = options.lr * factor


def _all_agree(fabric: Fabric, holds: bool) -> bool:
    """Whether it holds on every process, so that all stop together or none does."""
    if fabric.world_size == 1:
        return holds
    count = fabric.all_reduce(torch.tensor(float(holds), device=fabric.device), reduce_op="sum")
    return bool(count == fabric.world_size)


def _diverged(
    what: str, epoch: int, step: int, options: TrainingOptions, path: Path
) -> DivergedError:
    kept = (
        f"the checkpoint of epoch {epoch} is kept in {path}" if epoch else "no epoch was finished"
    )
    return DivergedError(
        f"{what} in epoch {epoch + 1}, step {step + 1}; {kept}: pass a smaller --lr "
        f"(now {options.lr:g}), --warmup-epochs or --clip"
    )
