"""What training runs left for the report and the app.

A file that a run did not leave, since it is not finished or was made by an older version, is None.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.experiments.fit.findings import are_photographs
from selfexplain.experiments.read_records import TRAINED, read_metrics, read_result
from selfexplain.experiments.run_dir import kept_digest
from selfexplain.files import read_json, read_shaped, tensor_shapes
from selfexplain.objectives.options import parts_of
from selfexplain.records import printable
from selfexplain.report.html import FRAMES, linspace_indices
from selfexplain.report.sections import EpochSnapshot, Predictions, Record, Snapshots


def read_record(folder: Path) -> Record:
    """What a run left, but for its snapshots.

    Raises:
        InputError: there is no `run.json` of a training, or a file cannot be read.

    Example:
        >>> read_record(Path("absent"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no file absent/run.json; pass the folder of a run
    """
    path = folder / "run.json"
    run = printable(read_json(path, TRAINED))
    config, class_names = run["config"], tuple(run["images"]["class_names"])
    done = folder / "result.json"
    return Record(
        objective=config["objective"],
        seed=config["seed"],
        class_names=class_names,
        metrics=printable(read_metrics(folder)),
        result=read_result(done) if done.exists() else None,
        predictions=_predictions(folder, len(class_names)),
        control=_control(config["objective"], config.get("options", {})),
        photographs=are_photographs(run["images"].get("shape", (1, 1, 1))),
        held_out=not config.get("recorder"),  # whose loop alone knows
        read=partial(_kept, folder, len(class_names)),
    )


def read_snapshots(folder: Path, most: int = FRAMES) -> Snapshots | None:
    """The snapshots of a run, after at most so many of its epochs, evenly spaced.

    Raises:
        InputError: a file cannot be read.

    Example:
        >>> read_snapshots(Path("absent")) is None
        True
    """
    path = folder / "album" / "images.safetensors"
    epochs = snapshot_epochs(folder)
    if not path.exists() or not epochs:
        return None
    run = read_json(folder / "run.json", TRAINED)
    classes = len(run["images"]["class_names"])
    images = read_shaped(path, {"images": "uint8 BCHW", "labels": "int B"})
    _check_indices(path, "labels", images["labels"], classes)
    return Snapshots(
        images_BCHW=images["images"],
        labels_B=images["labels"],
        after_epochs=tuple(
            _epoch_snapshot(folder, epochs[i], len(images["labels"]), classes)
            for i in linspace_indices(len(epochs), most)
        ),
        planned_epochs=run["config"].get("training", {}).get("epochs", epochs[-1]),
    )


def snapshot_epochs(folder: Path) -> list[int]:
    """The logged epochs that there is a snapshot of: that of a later one was cut off.

    Example:
        >>> snapshot_epochs(Path("absent"))
        []
    """
    epochs = sorted({int(line["epoch"]) for line in read_metrics(folder)})
    return [epoch for epoch in epochs if _snapshot_file(folder, epoch).exists()]


def _control(spec: str, options: dict[str, dict[str, Any]]) -> str:
    """The control of a spec's objective: the spec's own, else that of the run's options."""
    name, _, text = parts_of(spec)[-1].partition(":")
    own = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    return str(own.get("control", options.get(name, {}).get("control", "none")))


def _kept(
    folder: Path, classes: int, name: str, shapes: Mapping[str, str]
) -> dict[str, Tensor] | None:
    """The tensors of a file of a run, checked; None if there is no such file."""
    path = folder / name
    if not path.exists():
        return None
    return read_shaped(path, shapes, {"K": classes}, digest=kept_digest(folder, name))


def _predictions(folder: Path, classes: int) -> Predictions | None:
    name = "predictions.safetensors"
    found = _kept(folder, classes, name, {"logits": "float NK", "labels": "int N"})
    if found is None:
        return None
    _check_indices(folder / name, "labels", found["labels"], classes)
    return Predictions(logits_NK=found["logits"], labels_N=found["labels"])


def _check_indices(path: Path, name: str, index: Tensor, classes: int) -> None:
    """Raise InputError unless all of these are numbers of classes."""
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"{path} is damaged: {name} go from {low} to {high}, and the run has {classes} "
            "classes; put it back as it was, or delete it to do without"
        )


def _snapshot_file(folder: Path, epoch: int) -> Path:
    return folder / "album" / f"epoch-{epoch:04d}.safetensors"


def _epoch_snapshot(folder: Path, epoch: int, images: int, classes: int) -> EpochSnapshot:
    path = _snapshot_file(folder, epoch)
    shapes = {
        "probabilities": "float BK",
        "target": "float BK",
        "classes": "int BR",
        "maps": "float BRHW",
    }
    remedy = "put it back as it was, or delete it to do without"
    if "similarity" in tensor_shapes(path, remedy=remedy):  # not in runs of older versions
        shapes["similarity"] = "float BK"
    found = read_shaped(path, shapes, {"B": images, "K": classes})
    _check_indices(path, "classes", found["classes"], classes)
    return EpochSnapshot(
        epoch=epoch,
        probabilities_BK=found["probabilities"],
        target_BK=found["target"],
        classes_BR=found["classes"],
        maps_BRHW=found["maps"],
        similarity_BK=found.get("similarity"),
    )
