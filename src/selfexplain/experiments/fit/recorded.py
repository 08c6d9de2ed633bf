"""From what a recorder is given to what its record says: images, the model's name, the objective's.

Shape suffixes: B batch, N images, C channels, H and W space, K classes.
"""

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from selfexplain.data import Augmentation, MemoryImages
from selfexplain.data.batches import read_batch
from selfexplain.errors import InputError, first_line
from selfexplain.experiments.data import (
    OWN_IMAGES,
    Prepared,
    load,
    of_channels,
    prepare,
)
from selfexplain.experiments.fit.model import logits_of_blanks, misfits, shapes_of
from selfexplain.experiments.objectives import OBJECTIVES, is_own_objective, resolve
from selfexplain.experiments.options import DataOptions
from selfexplain.experiments.read_records import MOST_METRICS
from selfexplain.files import DIGEST
from selfexplain.introspection.options import recorded_names
from selfexplain.models.build import BUILT_IN, build_model, check_model_name
from selfexplain.objectives import Objective
from selfexplain.objectives.options import MIXER_CLASSES, ObjectiveOptions, parts_of
from selfexplain.objectives.shared.base import Wrapper

MOST_BYTES = 2 * 2**30
"""Of evaluation images that are kept in memory."""


# The images that a run is scored on, as its own loop reads them.


def images_from(
    data: Any, *, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[MemoryImages, Tensor, Tensor]:
    """Images as pixels, with the mean and standard deviation (C,) that bring them to the model.

    Args:
        data: a `DataLoader`, or other batches that `read_batch` takes; a data set of single
            images; or a pair of tensors, images (N, C, H, W) and labels (N,). Images of uint8 are
            pixels; others are as the model takes them, and become pixels again.
        mean: of the channels, that was subtracted from images in [0, 1]; None for 0.
        std: by which they were divided; None for 1.

    Raises:
        InputError: there are no images or labels, or, without mean and std, they do not lie in
            [0, 1].

    Example:
        >>> images, mean_C, std_C = images_from(
        ...     [(torch.tensor([[[[-1.0, 1.0]]]]), torch.tensor([3]))], mean=[0.5], std=[0.5]
        ... )
        >>> images.images_NCHW.tolist(), images.labels_N.tolist()
        ([[[[0, 255]]]], [3])
    """
    pixels, labels, held = [], [], 0
    mean_C, std_C = torch.empty(0), torch.empty(0)
    for batch in _read(data):
        x_BCHW, y_B = read_batch(batch).arguments(indices=False)[:2]
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] not in (1, 3):
            raise InputError(
                f"the evaluation images are a batch of shape {tuple(x_BCHW.shape)}; pass images "
                "(B, C, H, W), grey with C = 1 or in colour with C = 3"
            )
        mean_C = of_channels("mean", mean, 0.0, x_BCHW.shape[1])
        std_C = of_channels("std", std, 1.0, x_BCHW.shape[1])
        pixels.append(_pixels(x_BCHW.detach().cpu(), mean_C, std_C))
        labels.append(_classes(y_B.detach().cpu(), len(x_BCHW)))
        held += pixels[-1].numel()
        if held > MOST_BYTES:
            raise InputError(
                f"the evaluation images take more than {MOST_BYTES // 2**30} GiB; pass fewer, "
                "such as torch.utils.data.Subset(data, range(5000)), or the name of a data set"
            )
    if not pixels:
        raise InputError("there are no evaluation images; pass data that has some")
    sizes = {tuple(each.shape[1:]) for each in pixels}
    if len(sizes) > 1:
        raise InputError(
            f"the evaluation images are of shapes {' and '.join(map(str, sorted(sizes)[:2]))}; "
            "pass images of one shape"
        )
    return MemoryImages(torch.cat(pixels), torch.cat(labels)), mean_C, std_C


def _read(data: Any) -> Iterator[Any]:
    """The batches; whatever a user's data set raises is said in one sentence."""
    try:
        yield from _batches(data)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the evaluation images cannot be read ({type(error).__name__}: "
            f"{first_line(error)[:200]}); pass batches of tensors, images (B, C, H, W) and labels "
            "(B,), or a data set that a DataLoader makes such of"
        ) from error


def _classes(y: Tensor, images: int) -> Tensor:
    """Class numbers (B,), of such, of a column of such, or of distributions (B, K)."""
    if y.ndim == 2:
        y = y[:, 0] if y.shape[1] == 1 else y.argmax(dim=1)
    if y.shape != (images,):
        raise InputError(
            f"the labels of {images} evaluation images are of shape {tuple(y.shape)}; pass one "
            "class for each image"
        )
    return y.long()


def _batches(data: Any) -> Iterable[Any]:
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    if pair and all(isinstance(each, Tensor) for each in data) and data[0].ndim == 4:
        return [tuple(data)]
    if hasattr(data, "__getitem__") and not isinstance(data, (tuple, list, Mapping)):
        return DataLoader(data, batch_size=100)
    if isinstance(data, Mapping):
        return [data]
    if not isinstance(data, Iterable):
        raise InputError(
            f"data is a {type(data).__name__}; pass the name of a data set, such as 'digits' or "
            "'folder:pets', or a DataLoader of the images that the model is scored on"
        )
    return data


def _pixels(x_BCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """Images as uint8 pixels."""
    if x_BCHW.dtype == torch.uint8:
        return x_BCHW
    levels = x_BCHW.float() * std_C[:, None, None] + mean_C[:, None, None]
    low, high = float(levels.min()), float(levels.max())
    # a little more than rounding leaves: interpolated images may overshoot
    if not (low >= -0.02 and high <= 1.02):
        raise InputError(
            f"the evaluation images, times std and plus mean, go from {low:.3g} to {high:.3g} and "
            "must lie in [0, 1]; pass the mean= and std= that the loop normalises images by"
        )
    return (255 * levels).round().clamp(0, 255).to(torch.uint8)


def scored_data(
    data: Any,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    class_names: Sequence[str] | None,
    model: nn.Module,
    seed: int,
) -> tuple[Prepared, dict[str, Any]]:
    """The images that are scored, and what the record says of the data.

    Args:
        data: as `Recorder` takes them, and the next three.
        mean: of the channels.
        std: of the channels.
        class_names: of the classes.
        model: whose classes are counted where they have no names.
        seed: of the splits of a named data set.
    """
    if isinstance(data, str):
        data = DataOptions(data=data)
    if isinstance(data, DataOptions):
        if class_names is not None:
            raise InputError(f"the data {data.data} name their classes; leave out class_names")
        prepared = prepare(load(data), data, seed)
        channels = prepared.scored.shape_CHW[0]
        if mean is not None:
            prepared = replace(prepared, mean_C=of_channels("mean", mean, 0.0, channels))
        if std is not None:
            prepared = replace(prepared, std_C=of_channels("std", std, 1.0, channels))
        return prepared, asdict(data)
    with torch.random.fork_rng(devices=[]):  # from which a loader draws, even in order
        images, mean_C, std_C = images_from(data, mean=mean, std=std)
    if class_names is None:
        logits = logits_of_blanks(model, type(model).__name__, images.shape_CHW)
        classes = logits.shape[1] if logits.ndim == 2 else 1
        class_names = tuple(map(str, range(classes)))
    names = tuple(map(str, class_names))
    low, high = int(images.labels_N.min()), int(images.labels_N.max())
    if low < 0 or high >= len(names):
        raise InputError(
            f"label {low if low < 0 else high} of the evaluation images is outside the "
            f"{len(names)} classes; pass labels from 0 to {len(names) - 1}, or class_names"
        )
    prepared = Prepared(
        train=images,
        scored=images,
        class_names=names,
        mean_C=mean_C,
        std_C=std_C,
        augmentation=Augmentation(),
    )
    return prepared, {"data": OWN_IMAGES}


# How a model is called, so that whoever reads the record can build it again.


def name_of_model(
    model: nn.Module, factory: str | None, *, num_classes: int, in_channels: int
) -> str:
    """The name by which `build_model` builds a model of the same weights.

    Args:
        model: any.
        factory: the name, if the user gives one; None to find it: of a built-in network, of one of
            timm, or of a class that is called with num_classes and in_channels.
        num_classes: number of classes K.
        in_channels: channels C of the images.

    Raises:
        InputError: no name builds such a model.

    Example:
        >>> model = build_model("resnet20", num_classes=3, in_channels=1)
        >>> name_of_model(model, None, num_classes=3, in_channels=1)
        'resnet20'
    """
    if factory is not None:
        check_model_name(factory)
        built = built_aside(factory, num_classes=num_classes, in_channels=in_channels)
        if found := misfits(shapes_of(model), shapes_of(built)):
            raise InputError(
                f"the model that {factory} builds is not the one that is recorded ({found}); pass "
                "factory='package.module:function', which builds it when it is called with "
                f"num_classes={num_classes}, in_channels={in_channels}"
            )
        return factory
    for name in _names_perhaps(model):
        try:
            built = built_aside(name, num_classes=num_classes, in_channels=in_channels)
        except InputError:
            continue
        if type(built) is type(model) and not misfits(shapes_of(model), shapes_of(built)):
            return name
    raise InputError(
        f"explain, app and export have to build the {type(model).__name__} again, and it is not "
        "known how; pass factory='package.module:function', which builds it when it is called "
        f"with num_classes={num_classes}, in_channels={in_channels}"
    )


def _names_perhaps(model: nn.Module) -> Iterator[str]:
    kind = type(model)
    if kind.__module__.startswith("selfexplain.models"):
        yield from BUILT_IN
    described = getattr(model, "pretrained_cfg", None)
    if kind.__module__.startswith("timm.") and isinstance(described, Mapping):
        yield f"timm:{described.get('architecture')}"
    # what a script or a function defines, nobody else can import
    if kind.__module__ != "__main__" and "<locals>" not in kind.__qualname__:
        takes = inspect.signature(kind).parameters
        if {"num_classes", "in_channels"} <= takes.keys():
            yield f"{kind.__module__}:{kind.__qualname__}"


def built_aside(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """A model that is built to be looked at: no generator moves; one built in takes no memory."""
    place = torch.device("meta") if name in BUILT_IN else nullcontext()
    with place, torch.random.fork_rng(devices=[]):
        return build_model(name, num_classes=num_classes, in_channels=in_channels)


# What is minimised, as a record says it.


def spec_of(objective: Objective | str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Name of an objective, with mixers before it, and the options of each of its parts.

    Args:
        objective: any; or the name of what another loop minimises: the spec of an objective that
            there is, or a word of one's own, such as "focal".

    Raises:
        InputError: it is neither.

    Example:
        >>> from selfexplain.objectives import LabelSmoothing
        >>> spec_of(LabelSmoothing(nn.Linear(2, 3), smoothing=0.2))
        ('label_smoothing', {'label_smoothing': {'smoothing': 0.2}})
        >>> spec_of("focal")
        ('focal', {})
    """
    if isinstance(objective, str):
        if not objective.isidentifier():
            resolve(objective, ObjectiveOptions())
        if parts_of(objective)[-1].partition(":")[0] == "introspective":
            raise InputError(
                f"objective is the name {objective}; pass the objective itself, whose state the "
                "record keeps: objective=Introspective(model)"
            )
        return objective, {}
    if not isinstance(objective, Objective):
        raise InputError(
            f"objective is a {type(objective).__name__}; pass an objective of selfexplain, or a "
            "word for what your loop minimises, such as 'cross_entropy'"
        )
    kind = type(objective)
    # of a class inside a function, whose place is no name, the class's own
    place = f"{kind.__module__}:{kind.__qualname__}"
    place = place if is_own_objective(place) else kind.__name__
    names = {f"{each.__module__}:{each.__qualname__}": n for n, each in OBJECTIVES.items()}
    mixers = {path.rpartition(":")[2]: name for name, path in MIXER_CLASSES.items()}
    if isinstance(objective, Wrapper):
        inner, options = spec_of(objective.objective)
        if kind.__name__ not in mixers:
            return inner, options
        name = mixers[kind.__name__]
        return f"{name}+{inner}", {**options, **_options_of(name, objective)}
    name = names.get(place, place)
    return name, _options_of(name, objective)


def _options_of(name: str, objective: Objective) -> dict[str, dict[str, Any]]:
    declared = getattr(ObjectiveOptions(), name, None)
    if declared is None:
        return {}
    own = getattr(objective, "options", None)
    if isinstance(own, type(declared)):
        return {name: recorded_names(asdict(own))}
    # An objective need not keep each of its options: what it does not say is left out.
    plain = {
        option: value
        for option in asdict(declared)
        for value in (getattr(objective, option, None), getattr(own, option, None))
        if isinstance(value, bool | int | float | str)
    }
    return {name: recorded_names(plain)}


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an epoch as plain numbers.

    Example:
        >>> numbers_of({"loss": torch.tensor(0.5)})
        {'loss': 0.5}
        >>> numbers_of({"loss": "low"})
        Traceback (most recent call last):
        selfexplain.errors.InputError: the metric 'loss' is a str; pass numbers, or tensors of one
    """
    if len(metrics) > MOST_METRICS:
        raise InputError(f"an epoch has {len(metrics)} metrics; pass at most {MOST_METRICS}")
    row = {}
    for name, value in metrics.items():
        if name == "epoch":  # which the recorder counts
            continue
        if not isinstance(name, str) or name == DIGEST or len(name) > MOST_METRICS:
            raise InputError(
                f"a metric is called {str(name)[:60]!r}; pass another name, of at most "
                f"{MOST_METRICS} letters"
            )
        try:
            if isinstance(value, str | bytes):
                raise TypeError
            # a tensor, or an array of numpy's, of one number gives it
            row[name] = float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"the metric {name!r} is a {type(value).__name__}; pass numbers, or tensors of one"
            ) from error
    return row


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that it can be compared with what is read."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"hyperparameters cannot be written as JSON ({first_line(error)}); pass numbers, "
            "words, and lists of them"
        ) from error
    return found
