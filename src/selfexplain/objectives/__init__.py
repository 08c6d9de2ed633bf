"""The shelf of objectives that the methods are compared with: one file a method."""

from selfexplain.objectives.auxiliary_head import WithAuxiliaryHead
from selfexplain.objectives.base import Objective
from selfexplain.objectives.confidence_penalty import ConfidencePenalty
from selfexplain.objectives.context import ObjectiveContext
from selfexplain.objectives.cs_kd import CSKD
from selfexplain.objectives.dlb import DLB
from selfexplain.objectives.frozen import Frozen
from selfexplain.objectives.label_smoothing import LabelSmoothing
from selfexplain.objectives.ols import OnlineLabelSmoothing
from selfexplain.objectives.ps_kd import PSKD
from selfexplain.objectives.standard import Standard
from selfexplain.objectives.tf_kd import TfKD
from selfexplain.objectives.tunable import Choice, Range, Tunable
from selfexplain.objectives.zipf import ZipfLabelSmoothing

__all__ = [
    "CSKD",
    "DLB",
    "PSKD",
    "Choice",
    "ConfidencePenalty",
    "Frozen",
    "LabelSmoothing",
    "Objective",
    "ObjectiveContext",
    "OnlineLabelSmoothing",
    "Range",
    "Standard",
    "TfKD",
    "Tunable",
    "WithAuxiliaryHead",
    "ZipfLabelSmoothing",
]
