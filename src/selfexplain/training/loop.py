"""The training loop: any objective, on CPU, one GPU or several processes, through Lightning Fabric.

A run is a function of its seed: the batches are (data/), and the global generator is set at the
start of each epoch from the seed, the epoch and the process. A run that is continued from the
checkpoint of an epoch therefore ends in the same state as one that was never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from selfexplain.distributed import exists_for_all, mean_numbers, take_from_first
from selfexplain.errors import InputError
from selfexplain.files import write_tensors
from selfexplain.hypergradients import all_finite
from selfexplain.objectives.shared.base import Objective
from selfexplain.seeding import epoch_seed, global_generator_kept
from selfexplain.training.checkpoint import (
    FORMAT,
    check_identity,
    epochs_done,
    load_checkpoint,
    loading_from,
    save_checkpoint,
)
from selfexplain.training.finetune import freeze, freeze_norm, parameter_scales
from selfexplain.training.log import EpochLog
from selfexplain.training.loggers import Logger
from selfexplain.training.optimizers import make_optimizer
from selfexplain.training.options import TrainingOptions
from selfexplain.training.processes import synchronize_batch_norm
from selfexplain.training.steps import (
    CompiledParts,
    Step,
    autotuned_convolutions,
    compiled_steps,
    gradient_step,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric


# A run in progress: what it consists of, and what of it goes into a checkpoint.


@dataclass(kw_only=True)
class Run:
    """Everything that a run in progress consists of."""

    objective: Objective
    wrapped: Any
    optimizer: torch.optim.Optimizer
    wrapped_optimizer: Any
    average: AveragedModel | None
    gradients: Step | None = None
    """Forward and backward of the current epoch."""

    @property
    def evaluated_model(self) -> nn.Module:
        """The model whose scores count: the averaged one if there is an average."""
        return self.objective.model if self.average is None else self.average.module

    def buffers(self) -> list[Tensor]:
        """Of the objective and the average: what each process moves by its own images."""
        average = [] if self.average is None else list(self.average.buffers())
        return [*self.objective.buffers(), *average]


def start(objective: Objective, options: TrainingOptions, fabric: Fabric) -> Run:
    """Put an objective on the device, with its optimizer and average."""
    objective.to(fabric.device)
    if options.sync_batchnorm and fabric.world_size > 1:
        synchronize_batch_norm(objective)
    if options.channels_last:
        objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective.train()
    if options.freeze is not None:
        freeze(objective.model, options.freeze)
    if options.freeze_norm:
        freeze_norm(objective.model)
    optimizer = make_optimizer(
        options.optimizer,
        objective,
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        decay_vectors=options.decay_vectors,
        lr_scales=_lr_scales(objective, options),
    )
    average = None
    if options.ema:
        average = AveragedModel(
            objective.model,
            multi_avg_fn=get_ema_multi_avg_fn(options.ema),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )
    wrapped, wrapped_optimizer = fabric.setup(objective, optimizer)
    return Run(
        objective=objective,
        wrapped=wrapped,
        optimizer=optimizer,
        wrapped_optimizer=wrapped_optimizer,
        average=average,
    )


def _lr_scales(objective: Objective, options: TrainingOptions) -> dict[int, float] | None:
    """Factors on the learning rate, by parameter; None if all learn alike."""
    if (options.layer_decay, options.body_lr) == (1.0, 1.0):
        return None
    return parameter_scales(objective.model, layer_decay=options.layer_decay, body=options.body_lr)


def state_of(run: Run, fabric: Fabric) -> dict[str, Any]:
    """What a checkpoint holds of a training: tensors, numbers and strings."""
    return {
        "objective": run.objective.state_dict(),
        "optimizer": type(run.optimizer).__name__,
        "optimiser": run.optimizer.state_dict(),
        "average": None if run.average is None else run.average.state_dict(),
        "precision": fabric.strategy.precision.state_dict(),
    }


def restore(run: Run, fabric: Fabric, state: dict[str, Any], path: Path) -> None:
    """Take a run back to where a checkpoint was made."""
    made_with = state.get("optimizer", "SGD")  # the only one of 0.1.0, which said nothing of it
    if made_with != type(run.optimizer).__name__:
        raise InputError(
            f"the checkpoint {path} is of a training with {made_with}, not "
            f"{type(run.optimizer).__name__}; pass the optimizer it was made with"
        )
    run.objective.load_state_dict(state["objective"])
    run.optimizer.load_state_dict(state["optimiser"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    fabric.strategy.precision.load_state_dict(state["precision"])


# The learning rate as a function of the step, with no state to save.


def cosine_with_warmup(step: int, total: int, warmup: float) -> float:
    """Factor on the largest learning rate at a step: linear warm-up, then half a cosine to zero.

    `step` counts from 0 to total - 1; warm-up steps need not be whole.

    Source: Loshchilov and Hutter 2017 (SGDR), one period; warm-up of Goyal et al. 2017.
    """
    if step + 1 < warmup:
        return (step + 1) / warmup
    if step < warmup:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))


# Means over an epoch that are summed on the device, so that a step never waits for them.


class Meter:
    """Sums of an objective's terms and of right answers.

    The loss is checked on every n-th step, n = `every`: each check makes the device wait.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.last_loss = math.nan
        self._sums: dict[str, Tensor] = {}
        self._right: Tensor | None = None
        self._steps = 0
        self._images = 0

    def add(self, out: dict[str, Tensor], y_B: Tensor) -> bool:
        """Add one step; False if its loss was checked and is not finite."""
        for name, value in out.items():
            if value.ndim == 0:
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        right = (out["output"].detach().argmax(dim=1) == y_B).sum()
        self._right = right if self._right is None else self._right + right
        self._steps += 1
        self._images += len(y_B)
        if not self.looked:
            return True
        self.last_loss = float(out["loss"].detach())
        return math.isfinite(self.last_loss)

    @property
    def looked(self) -> bool:
        """Whether the loss of the last step was checked."""
        return self._steps % self.every == 0

    def finite(self) -> bool:
        """Whether the sum of all losses so far is finite."""
        return math.isfinite(float(self._sums["loss"]))

    def means(self) -> dict[str, float]:
        """Mean of every scalar term over the steps, and the running accuracy in percent."""
        terms = {name: float(total) / self._steps for name, total in self._sums.items()}
        right = 0.0 if self._right is None else float(self._right)
        return {**terms, "train_accuracy": 100 * right / self._images}


FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Our names of arithmetic -> Lightning Fabric's."""


class EpochBatches(Protocol):
    """What the loop asks of the data: a length, and the batches of an epoch."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W) and labels (B,) of each step."""

    def indexed_epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The same with each image's place in the training set (B,)."""


# The epochs of a training, or of a search: resumed, logged, and saved after each.


class EpochJob(Protocol):
    """What runs over epochs: a training, or a search."""

    @property
    def stopped(self) -> bool:
        """Whether it has ended before its last epoch."""

    def begin(self, epoch: int) -> None:
        """What comes before the global generator is seeded for an epoch, counted from 0."""

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        """Take the steps of an epoch; what there is to log of it. On every process."""

    def show(self, epoch: int) -> None:
        """What the first process does after the epoch of this number, from 1, to show it."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers and strings."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where a checkpoint was made; what does not fit may raise anything."""


def run_epochs(
    job: EpochJob,
    epochs: int,
    *,
    fabric: Fabric,
    log: EpochLog,
    path: Path,
    seed: int,
    identity: str,
    resume: bool,
) -> int:
    """Run the remaining epochs, with a log line and a checkpoint after each; return how many ran.

    The first process writes. The seed is that of everything random in the steps themselves (dropout
    and the like); the identity is a text that stands for the whole configuration.

    Raises:
        InputError: the checkpoint cannot be read, or is of another configuration.
    """
    done = 0
    if resume and exists_for_all(path):
        state = load_checkpoint(path)
        check_identity(state, identity, path)
        with loading_from(path):
            job.restore(state)
            done = epochs_done(state)
    if fabric.is_global_zero:
        log.cut_after(done)
    with global_generator_kept(fabric.device):
        while done < epochs and not job.stopped:
            job.begin(done)
            torch.manual_seed(epoch_seed(seed, done, fabric.global_rank))
            metrics = job.run_epoch(done)
            done += 1
            if fabric.is_global_zero:
                job.show(done)
                log.write({"epoch": done, **metrics})
                about = {"format": FORMAT, "identity": identity, "epochs_done": done}
                save_checkpoint(path, about | job.state())
            fabric.barrier()
    return done


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
        before_epoch: called before each epoch with the number of epochs done, to set what
            the model's behaviour depends on besides weights and buffers.
        after_epoch: called on the first process after each epoch, counted from 1, with the model
            to be evaluated, before the epoch's checkpoint is written.
        on_step: called after every step with the number of steps done and of the whole run's.
        score: called after every epoch with the model; what it returns is logged. With `keep_best`
            or `patience`, its accuracy and nll decide.

    Raises:
        InputError: the checkpoint cannot be read or is of another configuration.
        InputError: `keep_best` or `patience` and no `score`.
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
    if score is None and (options.keep_best or options.patience):
        raise InputError("keep_best and patience need scores of every epoch; pass score")
    training = _Training(
        start(objective, options, fabric),
        batches,
        options,
        fabric,
        folder / "checkpoint.pt",
        before_epoch,
        after_epoch,
        on_step,
        score,
    )
    run_epochs(
        training,
        options.epochs,
        fabric=fabric,
        log=EpochLog(folder, loggers),
        path=training.path,
        seed=seed,
        identity=identity,
        resume=resume,
    )
    return training.run.evaluated_model


@dataclass
class _Training:
    """A training over its epochs; its fields are those of `train`."""

    run: Run
    batches: EpochBatches
    options: TrainingOptions
    fabric: Fabric
    path: Path
    before_epoch: Callable[[int], None]
    after_epoch: Callable[[int, nn.Module], None]
    on_step: Callable[[int, int], None]
    score: Callable[[nn.Module], dict[str, float]] | None
    best: tuple[int, float, float] | None = None
    """Epoch, accuracy and negative NLL of the best so far."""
    epochs_done: int = 0

    @property
    def stopped(self) -> bool:
        """Whether the accuracy has not risen for `patience` epochs."""
        waited = 0 if self.best is None else self.epochs_done - self.best[0]
        return bool(0 < self.options.patience <= waited)

    def __post_init__(self) -> None:
        self.parts = CompiledParts(self.run.objective) if self.options.compile else None

    def begin(self, epoch: int) -> None:
        self.before_epoch(epoch)
        self.run.objective.begin_epoch(epoch, self.options.epochs)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        objective, options = self.run.objective, self.options
        compiled = compiled_steps(self.parts, objective, cuda_graph=options.cuda_graph)
        with autotuned_convolutions(), compiled:
            metrics = _train_epoch(
                self.run, self.batches, options, self.fabric, epoch, self.on_step, self.path
            )
        take_from_first(self.run.buffers())
        if self.score is not None:
            metrics |= self.score(self.run.evaluated_model)
        self.epochs_done = epoch + 1
        if self.options.keep_best or self.options.patience:
            found = metrics["accuracy"], -metrics["nll"]
            if self.best is None or found > self.best[1:]:
                self.best = self.epochs_done, *found
        return metrics

    def show(self, epoch: int) -> None:
        self.after_epoch(epoch, self.run.evaluated_model)
        if self.options.keep_best and self.best is not None and self.best[0] == epoch:
            path = self.path.with_name("best.safetensors")
            write_tensors(path, self.run.evaluated_model.state_dict())

    def state(self) -> dict[str, Any]:
        best = {} if self.best is None else {"best": list(self.best)}
        return {**state_of(self.run, self.fabric), **best}

    def restore(self, state: dict[str, Any]) -> None:
        restore(self.run, self.fabric, state, self.path)
        self.epochs_done = epochs_done(state)
        if "best" in state:
            epoch, accuracy, nll = state["best"]
            self.best = epoch, accuracy, nll


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
        run.wrapped_optimizer,
        fabric,
        cuda_graph=options.cuda_graph,
        before=run.gradients,
    )
    for step, (x_BCHW, *rest) in enumerate(_steps(run.objective, batches, epoch)):
        _set_learning_rate(run, options, epoch * len(batches) + step, len(batches))
        out = gradients(x_BCHW.contiguous(memory_format=layout), *rest)
        if options.clip:
            # A gradient that is not finite is no error here: fp16 scaling skips such steps, and
            # elsewhere the loss says so in the next one.
            fabric.clip_gradients(
                run.wrapped, run.wrapped_optimizer, max_norm=options.clip, error_if_nonfinite=False
            )
        run.wrapped_optimizer.step()
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
        "learning_rate": max(group["lr"] for group in run.optimizer.param_groups),
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
    for group in run.optimizer.param_groups:
        group["lr"] = options.largest_lr * factor * group.get("lr_scale", 1.0)


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
        f"(now {options.largest_lr:g}), --warmup-epochs or --clip"
    )
