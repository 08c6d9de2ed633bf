"""Classifiers for small images, timm's models, and the user's own."""

from selfexplain.models.build import BUILT_IN, build_model, pretraining_of
from selfexplain.models.pointwise import PointwiseConv2d
from selfexplain.models.pretrained import Pretraining

__all__ = ["BUILT_IN", "PointwiseConv2d", "Pretraining", "build_model", "pretraining_of"]
