"""The shelf of objectives that the methods are compared with: one file a method."""

from selfexplain.objectives.auxiliary_head import WithAuxiliaryHead
from selfexplain.objectives.base import Objective
from selfexplain.objectives.cgc import ContrastiveGradCam
from selfexplain.objectives.confidence_penalty import ConfidencePenalty
from selfexplain.objectives.context import ObjectiveContext
from selfexplain.objectives.icasc import AttentionSeparability
from selfexplain.objectives.label_smoothing import LabelSmoothing
from selfexplain.objectives.lsx import LearnerCritic
from selfexplain.objectives.saliency_guided import SaliencyGuided
from selfexplain.objectives.standard import Standard
from selfexplain.objectives.tunable import Choice, Range, Tunable

__all__ = [
    "AttentionSeparability",
    "Choice",
    "ConfidencePenalty",
    "ContrastiveGradCam",
    "LabelSmoothing",
    "LearnerCritic",
    "Objective",
    "ObjectiveContext",
    "Range",
    "SaliencyGuided",
    "Standard",
    "Tunable",
    "WithAuxiliaryHead",
]
