"""What a model says of itself: maps of the evidence for every class."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.explanations.capturing import capture
    from selfexplain.explanations.earlier_layer import find_earlier_layer
    from selfexplain.explanations.explainable_layers import explainable_layers
    from selfexplain.explanations.explained_layer import find_explained_layer
    from selfexplain.explanations.formulas import cam
    from selfexplain.explanations.kinds import KINDS, MapKind
    from selfexplain.explanations.maps import class_maps, maps_of_forward
    from selfexplain.explanations.own_classes import gradient_of_own_class, maps_of_own_classes
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
        "capturing": "capture",
        "earlier_layer": "find_earlier_layer",
        "explainable_layers": "explainable_layers",
        "explained_layer": "find_explained_layer",
        "formulas": "cam",
        "kinds": "KINDS MapKind",
        "maps": "class_maps maps_of_forward",
        "own_classes": "gradient_of_own_class maps_of_own_classes",
        "pooled_head": "find_pooled_head",
    },
)
