"""List the layers that a kind of map can be made at (B batch, C channels, H W space)."""

from torch import Tensor, nn

from .kinds import MapKind, check_kind
from .layout import to_BFHW
from .pooled_head import find_pooled_head
from .responsive import outputs_with_space


def explainable_layers(model: nn.Module, x_BCHW: Tensor, kind: MapKind) -> tuple[str, ...]:
    """Names of the modules that `class_maps` takes as `layer` for this kind, in order of execution.

    For ``cam`` those that return the feature map that is pooled into the head; none for
    ``input_x_gradient``, which explains the images; for the others every module that returns one
    tensor with positions, or patch tokens, on which the logits depend.

    Args:
        model: maps images to logits; left as it was found.
        x_BCHW: a few images such as the model takes.
        kind: one of ``KINDS``.

    Raises:
        InputError: if kind, images or logits cannot be used, or ``cam`` finds no pooled head.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
        >>> explainable_layers(model, torch.rand(2, 3, 8, 8), "grad_cam")
        ('0', '1')
    """
    if check_kind(kind) == "cam":
        return find_pooled_head(model, x_BCHW).layers
    if kind == "input_x_gradient":
        return ()
    return tuple(
        name
        for name, layout, gradient in outputs_with_space(model, x_BCHW)
        if name and layout is not None and bool(to_BFHW(gradient, layout).any())
    )
