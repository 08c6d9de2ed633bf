"""From a configuration to the model that is trained, and to the objective around it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from selfexplain.data import ImageData
from selfexplain.errors import InputError
from selfexplain.models import build_model
from selfexplain.models.build import is_own
from selfexplain.objectives import Objective, ObjectiveContext
from selfexplain.recipes.derived import (
    Plain,
    bare_network,
    derived_network,
    is_derived,
    with_auxiliary_head,
)
from selfexplain.recipes.finished import FinishedRun, weight_shapes
from selfexplain.recipes.objectives import build_objective
from selfexplain.recipes.options import plain
from selfexplain.training.checkpoint import loading_from


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
    described = plain(config)

    def make_model(auxiliary: bool = False) -> nn.Module:
        # Only the trained model has an auxiliary head: in another nothing would train it.
        one = described if auxiliary else {**described, "auxiliary": 0.0}
        return build_classifier(one, num_classes=data.num_classes, shape_CHW=data.shape_CHW)

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
            beside=lambda objective: with_auxiliary_head(objective, described),
        )
