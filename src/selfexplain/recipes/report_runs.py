"""Read what training runs left for the report.

A file that a run did not leave, since it is not finished or was made by an older version, is None.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.report.html.evenly import FRAMES, evenly
from selfexplain.report.sections import Album, Moment, Predictions, Record, Similarity
from selfexplain.training.files import read_json
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
        objective, seed = str(run["config"]["objective"]), int(run["config"]["seed"])
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
    paths = sorted((folder / "album").glob("epoch-*.safetensors"))
    if images is None or not paths:
        return None
    moments = [_moment(paths[i]) for i in evenly(len(paths), most)]
    return Album(images_BCHW=images[0], labels_B=images[1], moments=tuple(moments))


def _metrics(folder: Path) -> tuple[dict[str, Any], ...]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return ()
    try:
        return tuple(EpochLog(folder).read())
    except ValueError as error:
        raise InputError(f"{path} is not lines of JSON ({error}); pass another folder") from error


def _predictions(folder: Path) -> Predictions | None:
    tensors = _tensors(folder / "predictions.safetensors", "logits", "labels")
    return None if tensors is None else Predictions(logits_NK=tensors[0], labels_N=tensors[1])


def _similarity(folder: Path) -> Similarity | None:
    tensors = _tensors(folder / "similarity.safetensors", "similarity", "count")
    return None if tensors is None else Similarity(similarity_KK=tensors[0], count_K=tensors[1])


def _moment(path: Path) -> Moment:
    tensors = _tensors(path, "probabilities", "target", "classes", "maps")
    assert tensors is not None, "the folder was listed a moment ago"
    probabilities_BK, target_BK, classes_BR, maps_BRHW = tensors
    return Moment(
        epoch=int(path.stem.partition("-")[2]),
        probabilities_BK=probabilities_BK,
        target_BK=target_BK,
        classes_BR=classes_BR,
        maps_BRHW=maps_BRHW,
    )


def _tensors(path: Path, *names: str) -> list[Tensor] | None:
    """The tensors of these names; None if there is no file."""
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
        return [tensors[name] for name in names]
    except (SafetensorError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); delete it, and the report goes without"
        ) from error
