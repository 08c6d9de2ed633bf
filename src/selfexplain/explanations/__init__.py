"""What a model says of itself: maps of the evidence for every class."""

from typing import TYPE_CHECKING, Literal, get_args

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.explanations.hooks import capture
    from selfexplain.explanations.layers import (
        explainable_layers,
        find_earlier_layer,
        find_explained_layer,
        find_pooled_head,
    )
    from selfexplain.explanations.maps import cam, class_maps, maps_of_forward
    from selfexplain.explanations.own_classes import gradient_of_own_class, maps_of_own_classes

__all__ = [
    "KINDS",
    "MapKind",
    "cam",
    "capture",
    "class_maps",
    "explainable_layers",
    "find_earlier_layer",
    "find_explained_layer",
    "find_pooled_head",
    "gradient_of_own_class",
    "maps_of_forward",
    "maps_of_own_classes",
]

MapKind = Literal["cam", "grad_cam", "feature_x_gradient", "gradient", "input_x_gradient"]
"""Kinds of class maps, as `class_maps` describes them.

Defined here so that the command line reads them without torch.
"""
KINDS: tuple[MapKind, ...] = get_args(MapKind)

lazily(
    __name__,
    {
        "hooks": "capture",
        "layers": "explainable_layers find_earlier_layer find_explained_layer find_pooled_head",
        "maps": "cam class_maps maps_of_forward",
        "own_classes": "gradient_of_own_class maps_of_own_classes",
    },
)
