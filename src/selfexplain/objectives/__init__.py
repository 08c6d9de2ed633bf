"""The shelf of objectives that the methods are compared with: one file a method."""

from selfexplain.objectives.auxiliary_head import WithAuxiliaryHead
from selfexplain.objectives.base import Objective
from selfexplain.objectives.confidence_penalty import ConfidencePenalty
from selfexplain.objectives.label_smoothing import LabelSmoothing
from selfexplain.objectives.standard import Standard

__all__ = ["ConfidencePenalty", "LabelSmoothing", "Objective", "Standard", "WithAuxiliaryHead"]
