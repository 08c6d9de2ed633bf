"""Train one model with one objective and one seed, and score it on the last epoch.

A run's folder holds `run.json` (configuration, environment, and what the images need), then after
every epoch `metrics.jsonl`, `checkpoint.pt` and a page of `album/` (album.py), and at the end
`predictions.safetensors` (logits and labels), `similarity.safetensors`, `model.safetensors` and
`result.json`; if it trained its teacher, `teachers/` with a folder of the same kind.
"""

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from selfexplain.data import ImageData
from selfexplain.errors import InputError, first_line
from selfexplain.evaluation import predict, score
from selfexplain.recipes.album import open_album
from selfexplain.recipes.classifier import build_seeded
from selfexplain.recipes.derived import drop_path_schedule, size_of
from selfexplain.recipes.environment import environment
from selfexplain.recipes.folder import claim_folder, locked
from selfexplain.recipes.logging import logged
from selfexplain.recipes.machines import devices_and_machines
from selfexplain.recipes.options import DeviceOptions, RunConfig, TrainConfig, plain
from selfexplain.recipes.prepare import Prepared, load, prepare
from selfexplain.recipes.robustness import robustness
from selfexplain.recipes.scoring import predict_together
from selfexplain.recipes.teacher import after_teachers, find_teacher
from selfexplain.training import TrainingOptions, train
from selfexplain.training.files import read_json, write_json, write_tensors
from selfexplain.training.loggers import Logger, numbers
from selfexplain.training.loop import FABRIC_PRECISION

StepCallback = Callable[[int, int], None]


def launch(device: DeviceOptions, training: TrainingOptions) -> Fabric:
    """A Fabric for these devices, launched: with several devices, one process each.

    Where torchrun started this process, Fabric joins it to the others.

    Raises:
        InputError: the machine has no such devices, or torchrun started another number.

    Example:
        >>> launch(DeviceOptions(accelerator="cpu"), TrainingOptions()).world_size
        1
    """
    devices, machines = devices_and_machines(device)
    try:
        fabric = Fabric(
            accelerator=device.accelerator,
            devices=devices,
            num_nodes=machines,
            precision=FABRIC_PRECISION[training.precision],  # type: ignore[arg-type]
        )
        fabric.launch()
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise InputError(
            f"accelerator {device.accelerator} with {devices} device(s) and "
            f"{training.precision} cannot be used here ({first_line(error)}); "
            "pass --accelerator cpu --devices 1 --precision fp32"
        ) from error
    if training.precision == "fp16" and fabric.device.type == "cpu":
        raise InputError("precision fp16 needs a GPU; pass --precision bf16 or fp32")
    return fabric


def run_training(
    config: RunConfig,
    *,
    fabric: Fabric | None = None,
    data: ImageData | None = None,
    on_step: StepCallback = lambda done, total: None,
    teachers: Path | None = None,
    patience: float = 0.0,
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
        patience: seconds to wait for another process to leave the folder.

    Raises:
        InputError: the folder holds another run, or anything in the configuration cannot be used.

    Example:
        >>> import tempfile
        >>> from selfexplain.recipes.options import DataOptions
        >>> out = Path(tempfile.mkdtemp()) / "run"
        >>> training = TrainingOptions(epochs=1)
        >>> config = TrainConfig(data=DataOptions(data="digits"), training=training, out=out)
        >>> result = run_training(config)
        >>> result["objective"], result["seed"], result["accuracy"] > 10
        ('introspective', 0, True)
    """
    identity = claim_folder(config)
    done = config.out / "result.json"
    if done.exists():
        return read_json(done)
    with locked(config.out, patience):
        fabric = fabric if fabric is not None else launch(config.device, config.training)
        folder = config.out / "teachers" if teachers is None else teachers
        with logged(config, first=fabric.is_global_zero) as loggers:
            return _train_and_score(config, identity, fabric, data, on_step, folder, loggers)


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
    prepared = prepare(data, config.data, config.seed)
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
    batches = prepared.training_batches(
        batch_size=config.training.batch_size,
        seed=config.start,
        device=fabric.device,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        workers=config.data.workers,
    )
    fabric.barrier()  # every process has looked at the folder before one writes to it
    album = None
    if fabric.is_global_zero:
        write_run(config, prepared, fabric)
        album = open_album(config.out, prepared, fabric.device, objective)

    def logits(model: nn.Module, corruption: str | None) -> tuple[torch.Tensor, torch.Tensor]:
        with fabric.autocast():
            return predict_together(
                model,
                prepared,
                device=fabric.device,
                workers=config.data.workers,
                corruption=corruption,
            )

    def scores(model: nn.Module) -> dict[str, float]:
        return dataclasses.asdict(score(*logits(model, None)))

    def after_epoch(epoch: int, model: nn.Module) -> None:
        if album is not None:
            album.add(epoch, objective, model)

    model = train(
        objective,
        batches,
        config.training,
        fabric=fabric,
        folder=config.out,
        seed=config.start,
        identity=identity,
        resume=config.resume,
        loggers=loggers,
        before_epoch=drop_path_schedule(plain(config), objective.model),
        after_epoch=after_epoch,
        on_step=after_teachers(config, on_step),
        score=scores if config.score_every_epoch else None,
    )
    logits_NK, labels_N = logits(model, None)
    result = {
        "objective": config.objective,
        "seed": config.seed,
        **dataclasses.asdict(score(logits_NK, labels_N)),
        **(robustness(partial(logits, model)) if config.robustness else {}),
    }
    if fabric.is_global_zero:
        result |= {
            "step_seconds": _median_step_seconds(config.out),
            **size_of(plain(config), model, data.shape_CHW),
        }
        if album is not None:
            album.finish(objective, model)
        for logger in loggers:
            logger.finish(numbers(result))
        predictions = {"logits": logits_NK, "labels": labels_N}
        write_tensors(config.out / "predictions.safetensors", predictions)
        write_tensors(config.out / "model.safetensors", model.state_dict())
        write_json(config.out / "result.json", result)
    return fabric.broadcast(result)  # once the first process has written


def check_model(model: nn.Module, name: str, shape_CHW: tuple[int, int, int], classes: int) -> None:
    """Raise InputError unless the model maps images of this shape to logits of these classes.

    Example:
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
        >>> check_model(model, "small_cnn", (1, 8, 8), 3)
    """
    example = [(torch.zeros(2, *shape_CHW), torch.zeros(2, dtype=torch.int64))]
    try:
        shape = tuple(predict(model, example)[0].shape)
    except Exception as error:  # a user's model may raise anything
        raise InputError(
            f"model {name} cannot take images of shape {shape_CHW} or does not return logits "
            f"({first_line(error)}); pass a model for such images, or --channels and "
            "--image-size"
        ) from error
    if shape != (2, classes):
        raise InputError(
            f"model {name} returns shape {shape} for 2 images of {classes} classes; "
            f"it must return logits of shape (2, {classes})"
        )


def write_run(config: RunConfig, prepared: Prepared, fabric: Fabric) -> None:
    """Write `run.json`: configuration, environment, and what it takes to prepare an image."""
    write_json(
        config.out / "run.json",
        {
            "schema": 1,
            "config": plain(config, leave_out=("out", "resume")),
            "environment": {**environment(fabric.device), "processes": fabric.world_size},
            "images": {
                "class_names": list(prepared.class_names),
                "shape": list(prepared.train.shape_CHW),
                "mean": prepared.mean_C.tolist(),
                "std": prepared.std_C.tolist(),
                "train": len(prepared.train),
                "scored": len(prepared.scored),
            },
        },
    )


def _median_step_seconds(folder: Path) -> float:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    seconds: list[float] = [json.loads(line)["step_seconds"] for line in lines]
    return statistics.median(seconds)
