"""Classifiers for small images, timm's models, and the user's own."""

from selfexplain.models.build import BUILT_IN, build_model
from selfexplain.models.pointwise import PointwiseConv2d

__all__ = ["BUILT_IN", "PointwiseConv2d", "build_model"]
