"""What a model says of itself: maps of the evidence for every class."""

from .capturing import capture
from .earlier_layer import find_earlier_layer
from .explainable_layers import explainable_layers
from .explained_layer import find_explained_layer
from .formulas import cam
from .kinds import KINDS, MapKind
from .maps import class_maps, maps_of_forward
from .own_classes import gradient_of_own_class, maps_of_own_classes
from .pooled_head import find_pooled_head

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
