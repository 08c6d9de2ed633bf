"""What a model says of itself: maps of the evidence for every class."""

from .capturing import capture
from .explained_layer import find_explained_layer
from .formulas import cam
from .kinds import KINDS, MapKind
from .maps import class_maps, maps_of_forward
from .pooled_head import find_pooled_head

__all__ = [
    "KINDS",
    "MapKind",
    "cam",
    "capture",
    "class_maps",
    "find_explained_layer",
    "find_pooled_head",
    "maps_of_forward",
]
