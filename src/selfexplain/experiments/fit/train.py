"""Train one model with one objective and one seed, and score it on the last epoch.

A run's folder holds `run.json` (configuration, environment, and what the images need), then after
every epoch `metrics.jsonl`, `checkpoint.pt` and a page of `album/` (snapshots.py), and at the end
`predictions.safetensors` (logits and labels), `similarity.safetensors`, `model.safetensors` and
`result.json`; of photographs also what findings.py writes; if it trained its teacher, `teachers/`
with a folder of the same kind.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from selfexplain.data import CORRUPTIONS, Batches, ImageData
from selfexplain.distributed import exists_for_all
from selfexplain.evaluation import score
from selfexplain.experiments.data import Prepared, load, predict_together, prepare
from selfexplain.experiments.fit.head import (
    FeatureBatches,
    head_alone,
    learns_on_features,
    on_features,
    train_head_first,
)
from selfexplain.experiments.fit.model import (
    build_seeded,
    check_model,
    check_place,
    drop_path_schedule,
    size_of,
    wanted_statistics,
)
from selfexplain.experiments.fit.snapshots import SnapshotWriter, open_snapshots
from selfexplain.experiments.fit.teacher import (
    after_teachers,
    check_teacher_is_needed,
    find_teacher,
)
from selfexplain.experiments.objectives import check_step, resolve
from selfexplain.experiments.options import RunConfig, TrainConfig, to_dict
from selfexplain.experiments.read_records import read_own_result
from selfexplain.experiments.run_dir import (
    best_epoch,
    check_tensors,
    claim_folder,
    images_of,
    locked,
    median_step_seconds,
    read_finished,
    write_outcome,
    write_run,
)
from selfexplain.experiments.runtime import launch, logged, reraise_oom
from selfexplain.models.build import build_model, check_model_name, check_without_weights
from selfexplain.objectives import Objective
from selfexplain.training import train
from selfexplain.training.finetune import ALL, frozen_blocks
from selfexplain.training.loggers import Logger, numbers

if TYPE_CHECKING:
    from lightning_fabric import Fabric


# How many answers stay right when the images get worse.
#
# Shape suffixes: N images, K classes.


def robustness(logits: Callable[[str], tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Accuracy under each corruption, and its mean over all of them.

    The corrupted images are the same for every model, whatever its seed, so that models are
    compared on equal images.

    Args:
        logits: gives logits (N, K) and labels (N,) of the images under a corruption of this name.

    Returns:
        "corrupted_accuracy", in percent, and "corruptions", name -> accuracy in percent.

    Example:
        >>> import torch
        >>> found = robustness(lambda name: (torch.eye(2), torch.tensor([0, 0])))
        >>> found["corrupted_accuracy"], found["corruptions"]["contrast-5"]
        (50.0, 50.0)
    """
    accuracies = {name: _accuracy(*logits(name)) for name in CORRUPTIONS}
    return {
        "corrupted_accuracy": statistics.fmean(accuracies.values()),
        "corruptions": accuracies,
    }


def _accuracy(logits_NK: Tensor, y_N: Tensor) -> float:
    return 100 * (logits_NK.argmax(dim=1) == y_N).double().mean().item()


HEAD_SNAPSHOTS = 6
"""Of a head that is trained alone so many epochs are shown."""
StepCallback = Callable[[int, int], None]


def run_training(
    config: RunConfig,
    *,
    fabric: Fabric | None = None,
    data: ImageData | None = None,
    on_step: StepCallback = lambda done, total: None,
    teachers: Path | None = None,
    lock_timeout: float = 0.0,
    watchers: Sequence[Logger] = (),
) -> dict[str, Any]:
    """Train and score as the configuration says; return what `result.json` holds.

    Args:
        config: the whole configuration; it is saved in the folder.
        fabric: a launched Fabric; None to launch one.
        data: the data set, if the caller has loaded it already.
        on_step: called after every step with the number of steps done and of the whole run's, the
            training of its teachers included.
        teachers: folder of the teachers that are trained for this run, which runs may share; None
            for one inside the run's own.
        lock_timeout: seconds to wait for another process to leave the folder.
        watchers: are told of every epoch of the run itself, as loggers are; not closed.

    Raises:
        InputError: the folder holds another run, or anything in the configuration cannot be used.
        OutOfMemoryError: the GPU has no memory left; the last checkpoint is kept.
        WriteError: a file cannot be written, as on a full disk; the same.
        LostProcessError: another process of this run has died; the same.

    Example:
        >>> import tempfile
        >>> from selfexplain.experiments.options import DataOptions
        >>> out = Path(tempfile.mkdtemp()) / "run"
        >>> from selfexplain.training import TrainingOptions
        >>> training = TrainingOptions(epochs=1)
        >>> config = TrainConfig(data=DataOptions(data="digits"), training=training, out=out)
        >>> result = run_training(config)
        >>> result["objective"], result["seed"], result["accuracy"] > 10
        ('introspective', 0, True)
    """
    check_run(config)
    identity = claim_folder(config)
    done = config.out / "result.json"
    if done.exists():
        check_tensors(config.out)
        return read_own_result(done, config.objective, config.seed)
    remedy = (
        f"pass a smaller --batch-size (now {config.training.batch_size}), or let fewer runs share "
        "the GPU"
    )
    if fabric is None:
        check_place(config)
    with locked(config.out, lock_timeout), reraise_oom(remedy):
        fabric = fabric if fabric is not None else launch(config.device, config.training)
        folder = config.out / "teachers" if teachers is None else teachers
        with logged(config, first=fabric.is_global_zero) as loggers:
            told = [*loggers, *watchers]
            return _train_and_score(config, identity, fabric, data, on_step, folder, told)


def check_run(config: RunConfig) -> None:
    """Refuse what no data could make possible, before any are read.

    Raises:
        InputError: there is no such objective, option of it, model or teacher.

    Example:
        >>> from selfexplain.experiments.options import DataOptions
        >>> check_run(TrainConfig(data=DataOptions(data="digits"), model="resnet21"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no model 'resnet21' (did you mean resnet32?); ...
    """
    resolve(config.objective, config.options)
    check_teacher_is_needed(config, [config.objective])
    if isinstance(config, TrainConfig):
        check_model_name(config.model, pretrained=config.pretrained)
        if not config.pretrained:
            check_without_weights(config.model)
        _check_freeze(config)
    if config.teacher is not None:
        read_finished(config.teacher)


def _check_freeze(config: TrainConfig) -> None:
    """Refuse a layer that a built-in model does not have; others are asked when they are built."""
    until = config.training.freeze
    if until is not None and ":" not in config.model:
        with torch.device("meta"):  # where tensors have no memory
            frozen_blocks(build_model(config.model, num_classes=2, in_channels=3), until)


def _train_and_score(
    config: RunConfig,
    identity: str,
    fabric: Fabric,
    data: ImageData | None,
    on_step: StepCallback,
    teachers: Path,
    loggers: Sequence[Logger],
) -> dict[str, Any]:
    data = data if data is not None else load(config.data)
    statistics = wanted_statistics(config, data.shape_CHW[0])
    prepared = prepare(data, config.data, config.seed, statistics)
    objective = _objective(config, data, prepared, fabric, teachers, on_step)
    batches = prepared.training_batches(
        batch_size=config.training.batch_size,
        seed=config.start,
        device=fabric.device,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        workers=config.data.workers,
    )
    fabric.barrier()  # every process has looked at the folder before one writes to it
    snapshots = None
    if fabric.is_global_zero:
        write_run(config, images_of(prepared), fabric.device, fabric.world_size)
        snapshots = open_snapshots(config.out, prepared, fabric.device, objective)
    logits = partial(_logits, config, prepared, fabric)
    whole = objective.model
    cached = config.training.freeze == ALL and learns_on_features(objective, config.objective)
    if config.training.head_epochs and not exists_for_all(config.out / "checkpoint.pt"):
        _doubt(snapshots, train_head_first(whole, config, prepared, fabric))
    with (
        head_alone(objective, config, prepared, fabric) if cached else nullcontext(batches)
    ) as learned_from:
        _doubt(snapshots, learned_from)
        model = train(
            objective,
            learned_from,
            on_features(config.training) if cached else config.training,
            fabric=fabric,
            folder=config.out,
            seed=config.start,
            identity=identity,
            resume=config.resume,
            loggers=loggers,
            before_epoch=drop_path_schedule(to_dict(config), whole),
            after_epoch=_shown(
                snapshots, objective, whole if cached else None, config.training.epochs
            ),
            on_step=after_teachers(config, on_step),
            score=_epoch_score(config, logits, whole if cached else None),
        )
    model = whole if cached else model
    logits_NK, labels_N = logits(model)
    result = {
        "objective": config.objective,
        "seed": config.seed,
        **asdict(score(logits_NK, labels_N)),
        **(robustness(partial(logits, model)) if config.robustness else {}),
    }
    if fabric.is_global_zero:
        result |= {
            "step_seconds": median_step_seconds(config.out),
            **size_of(to_dict(config), model, data.shape_CHW),
            **(best_epoch(config.out) if config.training.keep_best else {}),
        }
        if snapshots is not None:
            snapshots.finish(objective, model, logits_NK, labels_N)
        for logger in loggers:
            logger.finish(numbers(result))
        result = write_outcome(config.out, result, model, logits_NK, labels_N)
    return fabric.broadcast(result)  # once the first process has written


def _doubt(snapshots: SnapshotWriter | None, batches: Batches | FeatureBatches) -> None:
    """Asks frozen features, where there are any, which labels of photographs are wrong."""
    if snapshots is not None and isinstance(batches, FeatureBatches):
        snapshots.doubt_labels(batches.features_VNFHW[0])


def _shown(
    snapshots: SnapshotWriter | None, objective: Objective, whole: nn.Module | None, epochs: int
) -> Callable[[int, nn.Module], None]:
    """Adds an epoch to the snapshots, if any; of the whole model where a head is trained."""
    if snapshots is None:
        return lambda epoch, model: None
    if whole is None:
        return partial(snapshots.add, objective)
    every = max(1, epochs // HEAD_SNAPSHOTS)

    def add(epoch: int, _model: nn.Module) -> None:
        if epoch % every and epoch != epochs:  # the body alone takes longer than an epoch
            return
        head = objective.model
        objective.replace_model(whole)
        try:
            snapshots.add(objective, epoch, whole)
        finally:
            objective.replace_model(head)

    return add


def _epoch_score(
    config: RunConfig,
    logits: Callable[[nn.Module], tuple[Tensor, Tensor]],
    whole: nn.Module | None,
) -> Callable[[nn.Module], dict[str, float]] | None:
    """Scores an epoch's model, where that is asked for; the whole where a head is trained."""
    training = config.training
    if not (config.score_every_epoch or training.keep_best or training.patience):
        return None
    return lambda model: asdict(score(*logits(model if whole is None else whole)))


def _objective(
    config: RunConfig,
    data: ImageData,
    prepared: Prepared,
    fabric: Fabric,
    teachers: Path,
    on_step: StepCallback,
) -> Objective:
    """The objective at its start, its teacher trained, its model checked."""
    teacher = find_teacher(
        config,
        data,
        prepared,
        fabric=fabric,
        folder=teachers,
        train=run_training,
        on_step=on_step,
    )
    objective = build_seeded(
        config,
        config.objective,
        config.start,
        data,
        num_images=len(prepared.train),
        teacher=teacher,
    )
    name = config.model if isinstance(config, TrainConfig) else "of the genotype"
    check_model(objective.model, name, data.shape_CHW, data.num_classes)
    check_step(objective, config.objective, data.shape_CHW, data.num_classes)
    return objective


def _logits(
    config: RunConfig,
    prepared: Prepared,
    fabric: Fabric,
    model: nn.Module,
    corruption: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and labels (N,) of the scored images, as they are or corrupted."""
    with fabric.autocast():
        return predict_together(
            model,
            prepared,
            device=fabric.device,
            workers=config.data.workers,
            corruption=corruption,
        )
