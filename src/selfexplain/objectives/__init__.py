"""The shelf of objectives that the methods are compared with: one file a method."""

from selfexplain.objectives.auxiliary_head import WithAuxiliaryHead
from selfexplain.objectives.base import Objective
from selfexplain.objectives.byot import BYOT
from selfexplain.objectives.confidence_penalty import ConfidencePenalty
from selfexplain.objectives.context import ObjectiveContext
from selfexplain.objectives.cutmix import CutMix
from selfexplain.objectives.dml import DML
from selfexplain.objectives.label_smoothing import LabelSmoothing
from selfexplain.objectives.mixing import Mixing
from selfexplain.objectives.mixup import Mixup
from selfexplain.objectives.standard import Standard
from selfexplain.objectives.tunable import Choice, Range, Tunable

__all__ = [
    "BYOT",
    "DML",
    "Choice",
    "ConfidencePenalty",
    "CutMix",
    "LabelSmoothing",
    "Mixing",
    "Mixup",
    "Objective",
    "ObjectiveContext",
    "Range",
    "Standard",
    "Tunable",
    "WithAuxiliaryHead",
]
