"""Read what training runs left for the report.

A file that a run did not leave, since it is not finished or was made by an older version, is None.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.recipes.finished import kept_digest
from selfexplain.recipes.objective_options import parts_of
from selfexplain.recipes.read_records import TRAINED, read_metrics, read_result
from selfexplain.records import printable
from selfexplain.report.html.evenly import FRAMES, evenly
from selfexplain.report.sections import Album, Moment, Predictions, Record, Similarity
from selfexplain.training.files import read_json, read_shaped


def read_record(folder: Path) -> Record:
    """What a run left, but for its album.

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
        similarity=_similarity(folder, len(class_names)),
        control=_control(config["objective"], config.get("options", {})),
    )


def read_album(folder: Path, most: int = FRAMES) -> Album | None:
    """The album of a run, with at most so many of its epochs, evenly spaced.

    Raises:
        InputError: a file cannot be read.

    Example:
        >>> read_album(Path("absent")) is None
        True
    """
    path = folder / "album" / "images.safetensors"
    epochs = album_epochs(folder)
    if not path.exists() or not epochs:
        return None
    run = read_json(folder / "run.json", TRAINED)
    classes = len(run["images"]["class_names"])
    images = read_shaped(path, {"images": "uint8 BCHW", "labels": "int B"})
    _check_indices(path, "labels", images["labels"], classes)
    return Album(
        images_BCHW=images["images"],
        labels_B=images["labels"],
        moments=tuple(
            _moment(folder, epochs[i], len(images["labels"]), classes)
            for i in evenly(len(epochs), most)
        ),
        epochs=run["config"].get("training", {}).get("epochs", epochs[-1]),
    )


def album_epochs(folder: Path) -> list[int]:
    """The logged epochs that the album has a page of: a page of a later one was cut off.

    Example:
        >>> album_epochs(Path("absent"))
        []
    """
    epochs = sorted({int(line["epoch"]) for line in read_metrics(folder)})
    return [epoch for epoch in epochs if _page(folder, epoch).exists()]


def _control(spec: str, options: dict[str, dict[str, Any]]) -> str:
    """The control of a spec's objective: the spec's own, else that of the run's options."""
    name, _, text = parts_of(spec)[-1].partition(":")
    own = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    return str(own.get("control", options.get(name, {}).get("control", "none")))


def _predictions(folder: Path, classes: int) -> Predictions | None:
    path = folder / "predictions.safetensors"
    if not path.exists():
        return None
    found = read_shaped(
        path,
        {"logits": "float NK", "labels": "int N"},
        {"K": classes},
        digest=kept_digest(folder, path.name),
    )
    _check_indices(path, "labels", found["labels"], classes)
    return Predictions(logits_NK=found["logits"], labels_N=found["labels"])


def _similarity(folder: Path, classes: int) -> Similarity | None:
    path = folder / "similarity.safetensors"
    if not path.exists():
        return None
    found = read_shaped(
        path,
        {"similarity": "float KK", "count": "int K"},
        {"K": classes},
        digest=kept_digest(folder, path.name),
    )
    return Similarity(similarity_KK=found["similarity"], count_K=found["count"])


def _check_indices(path: Path, name: str, index: Tensor, classes: int) -> None:
    """Raise InputError unless all of these are numbers of classes."""
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"{path} is damaged: {name} go from {low} to {high}, and the run has {classes} "
            "classes; put it back as it was, or delete it to do without"
        )


def _page(folder: Path, epoch: int) -> Path:
    return folder / "album" / f"epoch-{epoch:04d}.safetensors"


def _moment(folder: Path, epoch: int, images: int, classes: int) -> Moment:
    path = _page(folder, epoch)
    shapes = {
        "probabilities": "float BK",
        "target": "float BK",
        "classes": "int BR",
        "maps": "float BRHW",
    }
    found = read_shaped(path, shapes, {"B": images, "K": classes})
    _check_indices(path, "classes", found["classes"], classes)
    return Moment(
        epoch=epoch,
        probabilities_BK=found["probabilities"],
        target_BK=found["target"],
        classes_BR=found["classes"],
        maps_BRHW=found["maps"],
    )
