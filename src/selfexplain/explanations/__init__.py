"""What a model says of itself: maps of the evidence for every class."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.explanations.capture import capture, find_earlier_layer
    from selfexplain.explanations.formulas import cam
    from selfexplain.explanations.kinds import KINDS, MapKind
    from selfexplain.explanations.layers import explainable_layers, find_explained_layer
    from selfexplain.explanations.maps import (
        class_maps,
        gradient_of_own_class,
        maps_of_forward,
        maps_of_own_classes,
    )
    from selfexplain.explanations.pooled_head import find_pooled_head

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

lazily(
    __name__,
    {
        "capture": "capture find_earlier_layer",
        "formulas": "cam",
        "kinds": "KINDS MapKind",
        "layers": "explainable_layers find_explained_layer",
        "maps": "class_maps gradient_of_own_class maps_of_forward maps_of_own_classes",
        "pooled_head": "find_pooled_head",
    },
)
