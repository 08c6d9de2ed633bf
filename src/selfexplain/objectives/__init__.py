"""The shelf of objectives that the methods are compared with: one file a method."""

from selfexplain.objectives.auxiliary_head import WithAuxiliaryHead
from selfexplain.objectives.base import Objective
from selfexplain.objectives.born_again import BornAgain
from selfexplain.objectives.confidence_penalty import ConfidencePenalty
from selfexplain.objectives.context import ObjectiveContext
from selfexplain.objectives.distil_part import DistilPart
from selfexplain.objectives.dkd import DKD
from selfexplain.objectives.frozen import Frozen
from selfexplain.objectives.kd import KD
from selfexplain.objectives.label_smoothing import LabelSmoothing
from selfexplain.objectives.standard import Standard
from selfexplain.objectives.taught import Taught
from selfexplain.objectives.tunable import Choice, Range, Tunable

__all__ = [
    "DKD",
    "KD",
    "BornAgain",
    "Choice",
    "ConfidencePenalty",
    "DistilPart",
    "Frozen",
    "LabelSmoothing",
    "Objective",
    "ObjectiveContext",
    "Range",
    "Standard",
    "Taught",
    "Tunable",
    "WithAuxiliaryHead",
]
