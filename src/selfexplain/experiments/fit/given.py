"""Classifiers that are given without a run: published weights, or a file of weights for a model.

Shape suffixes: C channels, K classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError, first_line
from selfexplain.experiments.data import of_channels
from selfexplain.experiments.fit.model import check_model, logits_of_blanks, misfits, shapes_of
from selfexplain.experiments.reading_options import GivenModel
from selfexplain.experiments.run_dir import FinishedRun
from selfexplain.files import read_tensors
from selfexplain.models import build_model, pretraining_of
from selfexplain.models.pretrained import Pretraining

NESTED = ("state_dict", "model_state_dict", "model", "objective", "net")
"""Where checkpoints of several libraries keep the weights."""
UNTOLD = "unknown"
"""What the record of a given model says of its training."""
GUESS = (7, 3)
"""Classes and channels that a model is first built with, to see which sizes follow them."""


def load_given(given: GivenModel) -> tuple[FinishedRun, nn.Module]:
    """What is known of a given model, as of a finished run's, and the model in evaluation mode.

    Raises:
        InputError: there is no such model, its weights do not fit it (the message says which do
            not), or it is not known of what size its images are.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.pt"
        >>> trained = build_model("small_cnn", num_classes=5, in_channels=1)
        >>> torch.save(trained.state_dict(), path)
        >>> run, _ = load_given(GivenModel(model="small_cnn", weights=path, image_size=8))
        >>> run.class_names, run.shape_CHW
        (('0', '1', '2', '3', '4'), (1, 8, 8))
    """
    assert given.model is not None, "the options have been checked"
    if given.pretrained:
        return _published(given.model)
    assert given.weights is not None, "the options have been checked"
    weights = read_weights(given.weights)
    known = _described(given.model)
    side = given.image_size or (known.image_size if known else None)
    if side is None:
        raise InputError(
            f"it is not known which images {given.model} takes; pass --image-size, the side in "
            "pixels of those that it was trained on"
        )
    model, channels = _fitting(given.model, weights, given.weights, len(given.class_names))
    shape_CHW = (channels, side, side)
    logits = logits_of_blanks(model, given.model, shape_CHW)
    classes = logits.shape[1] if logits.ndim == 2 else 1
    if given.class_names and len(given.class_names) != classes:
        raise InputError(
            f"--class-names has {len(given.class_names)} names, and {given.model} with these "
            f"weights {classes} classes; pass a name for each"
        )
    check_model(model.requires_grad_(), given.model, shape_CHW, classes)
    default_C = known.statistics(channels) if known else (None, None)
    return _as_run(
        given.model,
        given.class_names or tuple(map(str, range(classes))),
        shape_CHW,
        _statistic("mean", given.mean, default_C[0], 0.0, channels),
        _statistic("std", given.std, default_C[1], 1.0, channels),
    ), model.eval()


def _published(name: str) -> tuple[FinishedRun, nn.Module]:
    known = pretraining_of(name)
    channels, classes = len(known.mean), len(known.class_names)
    with torch.random.fork_rng(devices=[]):
        model = build_model(name, num_classes=classes, in_channels=channels, pretrained=True)
    shape_CHW = (channels, known.image_size, known.image_size)
    mean_C, std_C = known.statistics(channels)
    return _as_run(name, known.class_names, shape_CHW, mean_C, std_C), model.eval()


def _as_run(
    name: str,
    class_names: tuple[str, ...],
    shape_CHW: tuple[int, int, int],
    mean_C: Tensor,
    std_C: Tensor,
) -> FinishedRun:
    return FinishedRun(
        folder=Path(name),
        config={"model": name, "objective": UNTOLD, "seed": 0, "data": {"data": UNTOLD}},
        class_names=class_names,
        shape_CHW=shape_CHW,
        mean_C=mean_C,
        std_C=std_C,
    )


def _statistic(
    name: str, given: tuple[float, ...], known_C: Tensor | None, otherwise: float, channels: int
) -> Tensor:
    if not given and known_C is not None:
        return known_C
    return of_channels(name, given or None, otherwise, channels)


def _described(name: str) -> Pretraining | None:
    """What timm or transformers say of a model's images; None where nobody does."""
    if not name.startswith(("timm:", "hf:")):
        return None
    try:
        return pretraining_of(name)
    except InputError:  # of which there are no weights
        return None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights, by name: safetensors, or what torch has saved as data.

    Raises:
        InputError: there is no such file, it cannot be read as data alone, or holds no weights.

    Example:
        >>> read_weights(Path("absent.pt"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no file absent.pt; pass the weights of the model
    """
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise InputError(f"{what}; pass the weights of the model")
    if path.suffix == ".safetensors":
        return read_tensors(path, remedy="pass a whole file of weights")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may end the reading anywhere
        raise InputError(
            f"the weights {path} cannot be read as data ({first_line(error)[:120]}); pass a "
            "state_dict, saved by torch.save(model.state_dict(), FILE), or a .safetensors file"
        ) from error
    found = _weights_in(held)
    if not found:
        raise InputError(
            f"{path} holds no weights but a {type(held).__name__}; pass a state_dict, saved by "
            "torch.save(model.state_dict(), FILE), or a .safetensors file"
        )
    return found


def _weights_in(held: Any) -> dict[str, Tensor]:
    """The weights in what was loaded, or in a part of it."""
    if not isinstance(held, Mapping):
        return {}
    tensors = {str(name): each for name, each in held.items() if isinstance(each, Tensor)}
    if tensors and len(tensors) == len(held):
        return tensors
    inside = next((held[name] for name in NESTED if isinstance(held.get(name), Mapping)), None)
    return tensors if inside is None else _weights_in(inside)


def _fitting(
    name: str, weights: dict[str, Tensor], path: Path, classes: int
) -> tuple[nn.Module, int]:
    """The model with these weights, and its channels."""
    guess = (classes or GUESS[0], GUESS[1])
    model = _built(name, *guess)
    weights = _below_prefix(weights, shapes_of(model))
    shapes = {key: tuple(each.shape) for key, each in weights.items()}
    found = _sizes(shapes, shapes_of(model), *guess)
    if found != guess:
        model = _built(name, *found)
    if wrong := misfits(shapes, shapes_of(model)):
        raise InputError(
            f"the weights {path} are not those of {name} for {found[0]} classes and images of "
            f"{found[1]} channels ({wrong}); pass the weights of this model"
        )
    model.load_state_dict(weights)
    return model, found[1]


def _built(name: str, classes: int, channels: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return build_model(name, num_classes=classes, in_channels=channels)


def _below_prefix(
    weights: dict[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """With the model's own names, where others have put something before them, or left it out.

    An objective, Lightning and several processes put something before them; of transformers' models
    `Logits` does, and files of their weights have it not.
    """
    first = next(iter(wanted), "")
    for key in weights:
        prefix = key.removesuffix(first)
        if prefix != key and prefix.endswith(".") and all(prefix + n in weights for n in wanted):
            below = {k: v for k, v in weights.items() if k.startswith(prefix)}
            return {k.removeprefix(prefix): v for k, v in below.items()}
    before = f"{first.partition('.')[0]}."
    if all(name.startswith(before) and name.removeprefix(before) in weights for name in wanted):
        return {f"{before}{name}": value for name, value in weights.items()}
    return weights


def _sizes(
    given: Mapping[str, tuple[int, ...]],
    built: Mapping[str, tuple[int, ...]],
    classes: int,
    channels: int,
) -> tuple[int, int]:
    """How many classes and channels weights are of, from the sizes in which they differ.

    A model of `classes` and `channels` has the shapes `built`.
    """
    found = [classes, channels]
    for name, shape in built.items():
        other = given.get(name, ())
        if len(other) != len(shape) or other == shape:
            continue
        if len(shape) <= 2 and shape[0] == classes and other[1:] == shape[1:]:
            found[0] = other[0]
        elif len(shape) == 4 and shape[1] == channels and other[0] == shape[0]:
            found[1] = other[1]
    return found[0], found[1]
