"""Whether a model fits its images and classes, before anything is trained."""

import torch
from torch import Tensor, nn

from selfexplain.data.load import check_spec
from selfexplain.errors import InputError, first_line
from selfexplain.evaluation import evaluating
from selfexplain.explanations.pooled_head import refuse_broken_weights
from selfexplain.recipes.launch import check_device
from selfexplain.recipes.options import SharedConfig


def check_place(config: SharedConfig) -> None:
    """Raise InputError for data or a device that is not there, before Fabric is imported.

    Example:
        >>> from selfexplain.recipes.options import DataOptions, TrainConfig
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
            f"model {name} has no parameter that can be trained; set requires_grad for those that "
            "shall be"
        )
    refuse_broken_weights(model)
    example = torch.zeros(2, *shape_CHW)
    try:
        with evaluating(model), torch.no_grad():
            logits = model(example)
    except Exception as error:  # a user's model may raise anything
        raise InputError(
            f"model {name} cannot take images of shape {shape_CHW} ({first_line(error)}); "
            "pass a model for such images, or --channels and --image-size"
        ) from error
    if not isinstance(logits, Tensor):
        raise InputError(
            f"model {name} returns a {type(logits).__name__}; it must return one tensor of logits "
            f"(B, K), of shape (2, {classes}) for 2 images of {classes} classes"
        )
    shape = tuple(logits.shape)
    if shape != (2, classes):
        raise InputError(
            f"model {name} returns shape {shape} for 2 images of {classes} classes; "
            f"it must return logits of shape (2, {classes})"
        )
