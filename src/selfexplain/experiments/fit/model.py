"""From a configuration to the model that is trained, and to the objective around it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from selfexplain import spaces  # whose modules are imported for derived networks alone
from selfexplain.data import ImageData
from selfexplain.data.datasets import check_spec
from selfexplain.errors import InputError, first_line
from selfexplain.evaluation import evaluating
from selfexplain.experiments.data import side_of
from selfexplain.experiments.objectives import build_objective
from selfexplain.experiments.options import SharedConfig, to_dict
from selfexplain.experiments.run_dir import FinishedRun, weight_shapes
from selfexplain.experiments.runtime import check_device
from selfexplain.explanations.hooks import preserved
from selfexplain.explanations.layout import refuse_broken_weights
from selfexplain.models import build_model, pretraining_of
from selfexplain.models.build import is_own
from selfexplain.objectives import Objective, ObjectiveContext, WithAuxiliaryHead
from selfexplain.training.checkpoint import loading_from

# Whether a model fits its images and classes, before anything is trained.


def check_place(config: SharedConfig) -> None:
    """Raise InputError for data or a device that is not there, before Fabric is imported.

    Example:
        >>> from selfexplain.experiments.options import DataOptions, TrainConfig
        >>> check_place(TrainConfig(data=DataOptions(data="digits")))
    """
    check_spec(config.data.data)
    check_device(config.device, config.training)


def check_model(model: nn.Module, name: str, shape_CHW: tuple[int, int, int], classes: int) -> None:
    """Raise InputError unless the model maps images of this shape to logits, and can be trained.

    Example:
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
        >>> check_model(model, "small_cnn", (1, 8, 8), 3)
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"model {name} has no parameter that can be trained; set requires_grad on those to "
            "train"
        )
    refuse_broken_weights(model)
    logits = logits_of_blanks(model, name, shape_CHW)
    shape = tuple(logits.shape)
    if shape != (2, classes):
        raise InputError(
            f"model {name} returns shape {shape} for 2 images of {classes} classes; "
            f"it must return logits of shape (2, {classes})"
        )


def logits_of_blanks(model: nn.Module, name: str, shape_CHW: tuple[int, int, int]) -> Tensor:
    """What a model says of two blank images, on its own device, in evaluation mode.

    Raises:
        InputError: it does not take such images, or returns no tensor.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with evaluating(model), torch.no_grad():
            logits = model(torch.zeros(2, *shape_CHW, device=device))
    except Exception as error:  # a user's model may raise anything
        raise InputError(
            f"model {name} cannot take images of shape {shape_CHW} ({first_line(error)}); "
            "pass a model for such images, or --channels and --image-size"
        ) from error
    if not isinstance(logits, Tensor):
        wrap = ", which Logits(model) does" if hasattr(logits, "logits") else ""
        raise InputError(
            f"model {name} returns a {type(logits).__name__}; it must return one tensor of logits "
            f"(B, K){wrap}"
        )
    return logits


# Which weights a model has, and which of those in a file it lacks.


Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's weights and buffers."""
    return {name: tuple(each.shape) for name, each in model.state_dict().items()}


def misfits(given: Shapes, wanted: Shapes, most: int = 3) -> str:
    """In words, which weights a model lacks, which it does not have, which are of other shapes.

    Args:
        given: of a file, or of a model: name -> shape.
        wanted: of the model that they are for.
        most: names that are said of each kind.

    Returns:
        Nothing if all fit.

    Example:
        >>> misfits({"a": (2,), "c": (1,)}, {"a": (3,), "b": (1,)})
        'missing: b; unknown: c; of another shape: a (2,) in place of (3,)'
    """
    both = given.keys() & wanted.keys()
    found = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {given[name]} in place of {wanted[name]}"
            for name in wanted
            if name in both and given[name] != wanted[name]
        ],
    }
    return "; ".join(
        f"{kind}: {', '.join(names[:most])}"
        + (f" and {len(names) - most} more" if len(names) > most else "")
        for kind, names in found.items()
        if names
    )


# Weights that the logits do not hang on: a cell with `none` may have operations that lead
# nowhere.
#
# In the benchmarks they count as the network's; they cannot learn.


def freeze_unused(network: nn.Module, image_shape: Sequence[int]) -> list[str]:
    """Ask for no gradient of weights that get none; training on several devices waits for each.

    Only the graph is looked at: nothing is computed, and images of any size take no memory.

    Args:
        network: maps images (B, C, H, W) to logits; what lies below a submodule named `auxiliary`
            is taken for reached.
        image_shape: (C, H, W).

    Returns:
        Names of the frozen parameters.

    Example:
        >>> from selfexplain.spaces import build_network, load_genotype
        >>> cell = "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|skip_connect~0|none~1|none~2|"
        >>> network = spaces.build_network(
        ...     spaces.load_genotype(cell),
        ...     num_classes=3,
        ...     in_channels=1,
        ...     image_size=8,
        ...     channels=4,
        ...     cells=1,
        ... )
        >>> freeze_unused(network, (1, 8, 8))[0]
        'blocks.0.edges.nodes.0.0.after.0.layers.0.weight'
    """
    named = [
        (name, parameter)
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and "auxiliary" not in name.split(".")
    ]
    image = torch.empty(1, *image_shape, device="meta", dtype=named[0][1].dtype)
    stand_ins = {
        name: torch.empty_like(parameter, device="meta", requires_grad=True)
        for name, parameter in network.named_parameters(remove_duplicate=False)
    }
    buffers = {name: torch.empty_like(b, device="meta") for name, b in network.named_buffers()}
    with preserved(network, image, eval_mode=True), torch.enable_grad():
        logits = functional_call(network, {**stand_ins, **buffers}, (image,))
        gradients = torch.autograd.grad(
            logits.sum(), [stand_ins[name] for name, _ in named], allow_unused=True
        )
    unused = [pair for pair, grad in zip(named, gradients, strict=True) if grad is None]
    for _, parameter in unused:
        parameter.requires_grad_(False)
    return [name for name, _ in unused]


# What is special about training the network of a genotype.
#
# Configurations are plain here, as `run.json` holds them, so that a network that is explained is
# built as it was trained.


Plain = Mapping[str, Any]
"""A configuration as dictionaries, lists, strings and numbers."""


def is_derived(config: Plain) -> bool:
    """Whether the configuration's model is the network of a genotype.

    Example:
        >>> is_derived({"model": "small_cnn"})
        False
    """
    return "genotype" in config


def derived_network(
    config: Plain, *, num_classes: int, shape_CHW: tuple[int, int, int]
) -> nn.Module:
    """The untrained network of a configuration's genotype, for images of this shape.

    Raises:
        InputError: the images are not square, or too small for the cells or the auxiliary head.

    Example:
        >>> cell = "|skip_connect~0|+|skip_connect~0|none~1|+|skip_connect~0|none~1|none~2|"
        >>> config = {"genotype": cell, "init_channels": 4, "cells": 1, "form": "small",
        ...           "auxiliary": 0.0}
        >>> spaces.count_parameters(derived_network(config, num_classes=10, shape_CHW=(1, 8, 8)))
        4822
    """
    network = bare_network(config, num_classes=num_classes, shape_CHW=shape_CHW)
    freeze_unused(network, shape_CHW)
    return network


def bare_network(config: Plain, *, num_classes: int, shape_CHW: tuple[int, int, int]) -> nn.Module:
    """The same, without a look at which of its weights the logits hang on."""
    return spaces.build_network(
        spaces.load_genotype(config["genotype"]),
        num_classes=num_classes,
        in_channels=shape_CHW[0],
        image_size=side_of(shape_CHW),
        channels=config["init_channels"],
        cells=config["cells"],
        form=config["form"],
        auxiliary=config["auxiliary"] > 0,
    )


def with_auxiliary_head(objective: Objective, config: Plain) -> Objective:
    """The objective beside the auxiliary head's loss, if the configuration has such a head.

    Example:
        >>> from selfexplain.objectives import Standard
        >>> type(with_auxiliary_head(Standard(nn.Flatten()), {"model": "small_cnn"})).__name__
        'Standard'
    """
    weight = config.get("auxiliary", 0.0)
    return WithAuxiliaryHead(objective, weight=weight) if weight else objective


def drop_path_schedule(config: Plain, network: nn.Module) -> Callable[[int], None]:
    """What to call before each epoch: drop-path grows linearly from 0 to the configuration's.

    As in DARTS (Liu et al. 2019) the last epoch has (epochs - 1) / epochs of it.

    Example:
        >>> from selfexplain.spaces.operations import DropPath
        >>> layer, config = DropPath(), {"drop_path": 0.3, "training": {"epochs": 3}}
        >>> drop_path_schedule(config, layer)(2)
        >>> round(layer.probability, 6)
        0.2
    """
    largest = config.get("drop_path", 0.0)
    if not largest:
        return lambda epoch: None
    epochs = config["training"]["epochs"]
    return lambda epoch: spaces.set_drop_path(network, largest * epoch / epochs)


def size_of(config: Plain, network: nn.Module, shape_CHW: tuple[int, int, int]) -> dict[str, int]:
    """Parameters and multiply-adds of a derived network; nothing for other models.

    Example:
        >>> size_of({"model": "small_cnn"}, nn.Flatten(), (1, 8, 8))
        {}
    """
    if not is_derived(config):
        return {}
    return {
        "parameters": spaces.count_parameters(network),
        "multiply_adds": spaces.count_multiply_adds(network, shape_CHW),
    }


def build_classifier(
    config: Plain, *, num_classes: int, shape_CHW: tuple[int, int, int]
) -> nn.Module:
    """The untrained model of a configuration as `run.json` holds it.

    Args:
        config: with a model's name, or with a genotype.
        num_classes: number of classes K.
        shape_CHW: of the images.

    Raises:
        InputError: the model is unknown, or does not take such images.

    Example:
        >>> model = build_classifier({"model": "resnet20"}, num_classes=10, shape_CHW=(3, 32, 32))
        >>> type(model).__name__
        'ResNet'
    """
    if is_derived(config):
        return derived_network(config, num_classes=num_classes, shape_CHW=shape_CHW)
    return build_model(config["model"], num_classes=num_classes, in_channels=shape_CHW[0])


def start_model(config: Plain, *, num_classes: int, shape_CHW: tuple[int, int, int]) -> nn.Module:
    """The model of a configuration as its training starts: untrained, or with published weights.

    Raises:
        InputError: as `build_classifier`; or the weights cannot be had.

    Example:
        >>> model = start_model({"model": "resnet20"}, num_classes=10, shape_CHW=(3, 32, 32))
        >>> type(model).__name__
        'ResNet'
    """
    if not config.get("pretrained"):
        return build_classifier(config, num_classes=num_classes, shape_CHW=shape_CHW)
    return build_model(
        config["model"], num_classes=num_classes, in_channels=shape_CHW[0], pretrained=True
    )


def wanted_statistics(config: object, channels: int) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation (C,) that published weights want; None where there are none.

    Example:
        >>> from selfexplain.experiments.options import DataOptions, TrainConfig
        >>> wanted_statistics(TrainConfig(data=DataOptions(data="digits")), 3) is None
        True
    """
    if not getattr(config, "pretrained", False):
        return None
    return pretraining_of(config.model).statistics(channels)  # type: ignore[attr-defined]


def build_of(run: FinishedRun) -> nn.Module:
    """The untrained model of a finished or exported run, no larger than its weights.

    A record may come from a stranger: one that asks for more numbers than the file of weights has
    is refused before memory is taken for them. A model of the user's own is built unasked.

    Raises:
        InputError: the weights are not of this model, or the model cannot be built here.
    """
    if not is_own(run.config.get("model")):
        shapes = weight_shapes(run)
        with loading_from(run.folder / "model.safetensors"):
            _check_numbers(shapes, run)
    return build_classifier(run.config, num_classes=run.num_classes, shape_CHW=run.shape_CHW)


def _check_numbers(shapes: Mapping[str, tuple[int, ...]], run: FinishedRun) -> None:
    """Raise ValueError if the model of a run has more numbers than the tensors of these shapes."""
    longest = max((size for shape in shapes.values() for size in shape), default=0)
    if longest < max(run.num_classes, run.shape_CHW[0]):
        raise ValueError(
            f"no tensor is of {run.num_classes} classes, or for {run.shape_CHW[0]} channels"
        )
    make = bare_network if is_derived(run.config) else build_classifier
    try:
        with torch.device("meta"):  # where tensors have no memory
            model = make(run.config, num_classes=run.num_classes, shape_CHW=run.shape_CHW)
    except InputError:
        raise
    except Exception:  # a network of timm may look at its numbers
        return
    wanted = sum(tensor.numel() for tensor in model.state_dict().values())
    held = sum(map(math.prod, shapes.values()))
    if wanted > held:
        raise ValueError(f"it holds {held} numbers, and the model of its record has {wanted}")


def build_seeded(
    config: Any,
    spec: str,
    seed: int,
    data: ImageData,
    *,
    num_images: int,
    teacher: nn.Module | None = None,
) -> Objective:
    """The objective around a model whose start weights depend on the seed alone.

    Args:
        config: with the model, and the options of all objectives.
        spec: of the objective.
        seed: of the start weights.
        data: the images' shape and classes.
        num_images: how many images are trained on.
        teacher: a trained model, for an objective that asks for one.
    """
    described = to_dict(config)

    def make_model(auxiliary: bool = False) -> nn.Module:
        # Only the trained model has an auxiliary head: in another nothing would train it.
        one = described if auxiliary else {**described, "auxiliary": 0.0}
        return start_model(one, num_classes=data.num_classes, shape_CHW=data.shape_CHW)

    context = ObjectiveContext(
        num_classes=data.num_classes,
        image_shape=data.shape_CHW,
        num_images=num_images,
        batch_size=config.training.batch_size,
        make_model=make_model,
        teacher=teacher,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_objective(
            spec,
            make_model(auxiliary=True),
            config.options,
            context,
            wrap=lambda objective: with_auxiliary_head(objective, described),
        )
