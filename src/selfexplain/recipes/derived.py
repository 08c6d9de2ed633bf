"""What is special about training the network of a genotype.

Configurations are plain here, as `run.json` holds them, so that a network that is explained is
built as it was trained.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from selfexplain.objectives import Objective, WithAuxiliaryHead
from selfexplain.recipes.prepare import side_of
from selfexplain.spaces import (
    build_network,
    count_multiply_adds,
    count_parameters,
    load_genotype,
    set_drop_path,
)
from selfexplain.training.unreached import freeze_unreached

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
        >>> count_parameters(derived_network(config, num_classes=10, shape_CHW=(1, 8, 8)))
        4822
    """
    network = bare_network(config, num_classes=num_classes, shape_CHW=shape_CHW)
    freeze_unreached(network, shape_CHW)
    return network


def bare_network(config: Plain, *, num_classes: int, shape_CHW: tuple[int, int, int]) -> nn.Module:
    """The same, without a look at which of its weights the logits hang on."""
    return build_network(
        load_genotype(config["genotype"]),
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
        >>> from selfexplain.spaces.drop_path import DropPath
        >>> layer, config = DropPath(), {"drop_path": 0.3, "training": {"epochs": 3}}
        >>> drop_path_schedule(config, layer)(2)
        >>> round(layer.probability, 6)
        0.2
    """
    largest = config.get("drop_path", 0.0)
    if not largest:
        return lambda epoch: None
    epochs = config["training"]["epochs"]
    return lambda epoch: set_drop_path(network, largest * epoch / epochs)


def size_of(config: Plain, network: nn.Module, shape_CHW: tuple[int, int, int]) -> dict[str, int]:
    """Parameters and multiply-adds of a derived network; nothing for other models.

    Example:
        >>> size_of({"model": "small_cnn"}, nn.Flatten(), (1, 8, 8))
        {}
    """
    if not is_derived(config):
        return {}
    return {
        "parameters": count_parameters(network),
        "multiply_adds": count_multiply_adds(network, shape_CHW),
    }
