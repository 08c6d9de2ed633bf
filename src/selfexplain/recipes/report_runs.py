"""Read what training runs left for the report.

A file that a run did not leave, since it is not finished or was made by an older version, is None.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.recipes.finished import kept_digest
from selfexplain.recipes.folder import saved_config
from selfexplain.recipes.objective_options import parts_of
from selfexplain.report.html.evenly import FRAMES, evenly
from selfexplain.report.sections import Album, Moment, Predictions, Record, Similarity
from selfexplain.training.files import load_tensors, read_json
from selfexplain.training.log import EpochLog


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
    run = read_json(path)
    try:
        config = run["config"]
        objective, seed = str(config["objective"]), int(config["seed"])
        class_names = tuple(map(str, run["images"]["class_names"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a training's; pass the folder of a training") from error
    done = folder / "result.json"
    return Record(
        objective=objective,
        seed=seed,
        class_names=class_names,
        metrics=_metrics(folder),
        result=read_json(done) if done.exists() else None,
        predictions=_predictions(folder),
        similarity=_similarity(folder),
        control=_control(objective, config.get("options") or {}),
    )


def read_album(folder: Path, most: int = FRAMES) -> Album | None:
    """The album of a run, with at most so many of its epochs, evenly spaced.

    Raises:
        InputError: a file cannot be read.

    Example:
        >>> read_album(Path("absent")) is None
        True
    """
    images = _tensors(folder / "album" / "images.safetensors", "images", "labels")
    epochs = album_epochs(folder)
    if images is None or not epochs:
        return None
    return Album(
        images_BCHW=images[0],
        labels_B=images[1],
        moments=tuple(_moment(folder, epochs[i]) for i in evenly(len(epochs), most)),
        epochs=int(saved_config(folder / "run.json")["training"]["epochs"]),
    )


def album_epochs(folder: Path) -> list[int]:
    """The logged epochs that the album has a page of: a page of a later one was cut off.

    Example:
        >>> album_epochs(Path("absent"))
        []
    """
    epochs = sorted({int(line["epoch"]) for line in _metrics(folder)})
    return [epoch for epoch in epochs if _page(folder, epoch).exists()]


def _control(spec: str, options: dict[str, dict[str, Any]]) -> str:
    """The control of a spec's objective: the spec's own, else that of the run's options."""
    name, _, text = parts_of(spec)[-1].partition(":")
    own = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    return str(own.get("control", options.get(name, {}).get("control", "none")))


def _metrics(folder: Path) -> tuple[dict[str, Any], ...]:
    return tuple(EpochLog(folder).read())


def _predictions(folder: Path) -> Predictions | None:
    tensors = _tensors(folder / "predictions.safetensors", "logits", "labels")
    return None if tensors is None else Predictions(logits_NK=tensors[0], labels_N=tensors[1])


def _similarity(folder: Path) -> Similarity | None:
    tensors = _tensors(folder / "similarity.safetensors", "similarity", "count")
    return None if tensors is None else Similarity(similarity_KK=tensors[0], count_K=tensors[1])


def _page(folder: Path, epoch: int) -> Path:
    return folder / "album" / f"epoch-{epoch:04d}.safetensors"


def _moment(folder: Path, epoch: int) -> Moment:
    tensors = _tensors(_page(folder, epoch), "probabilities", "target", "classes", "maps")
    assert tensors is not None, "the page was there a moment ago"
    probabilities_BK, target_BK, classes_BR, maps_BRHW = tensors
    return Moment(
        epoch=epoch,
        probabilities_BK=probabilities_BK,
        target_BK=target_BK,
        classes_BR=classes_BR,
        maps_BRHW=maps_BRHW,
    )


def _tensors(path: Path, *names: str) -> list[Tensor] | None:
    """The tensors of these names; None if there is no file."""
    if not path.exists():
        return None
    remedy = "delete it, and the report goes without"
    tensors = load_tensors(path, digest=kept_digest(path.parent, path.name), remedy=remedy)
    try:
        return [tensors[name] for name in names]
    except KeyError as error:
        raise InputError(f"{path} cannot be read ({error}); {remedy}") from error
