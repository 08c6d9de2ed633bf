"""The shelf of objectives that the methods are compared with: one file a method."""

from selfexplain.objectives.auxiliary_head import WithAuxiliaryHead
from selfexplain.objectives.base import Objective
from selfexplain.objectives.born_again import BornAgain
from selfexplain.objectives.byot import BYOT
from selfexplain.objectives.cgc import ContrastiveGradCam
from selfexplain.objectives.confidence_penalty import ConfidencePenalty
from selfexplain.objectives.context import ObjectiveContext
from selfexplain.objectives.cs_kd import CSKD
from selfexplain.objectives.cutmix import CutMix
from selfexplain.objectives.distil_part import DistilPart
from selfexplain.objectives.dkd import DKD
from selfexplain.objectives.dlb import DLB
from selfexplain.objectives.dml import DML
from selfexplain.objectives.frozen import Frozen
from selfexplain.objectives.icasc import AttentionSeparability
from selfexplain.objectives.kd import KD
from selfexplain.objectives.label_smoothing import LabelSmoothing
from selfexplain.objectives.lsx import LearnerCritic
from selfexplain.objectives.mixing import Mixing
from selfexplain.objectives.mixup import Mixup
from selfexplain.objectives.ols import OnlineLabelSmoothing
from selfexplain.objectives.ps_kd import PSKD
from selfexplain.objectives.saliency_guided import SaliencyGuided
from selfexplain.objectives.standard import Standard
from selfexplain.objectives.taught import Taught
from selfexplain.objectives.tf_kd import TfKD
from selfexplain.objectives.tunable import Choice, Range, Tunable
from selfexplain.objectives.zipf import ZipfLabelSmoothing

__all__ = [
    "BYOT",
    "CSKD",
    "DKD",
    "DLB",
    "DML",
    "KD",
    "PSKD",
    "AttentionSeparability",
    "BornAgain",
    "Choice",
    "ConfidencePenalty",
    "ContrastiveGradCam",
    "CutMix",
    "DistilPart",
    "Frozen",
    "LabelSmoothing",
    "LearnerCritic",
    "Mixing",
    "Mixup",
    "Objective",
    "ObjectiveContext",
    "OnlineLabelSmoothing",
    "Range",
    "SaliencyGuided",
    "Standard",
    "Taught",
    "TfKD",
    "Tunable",
    "WithAuxiliaryHead",
    "ZipfLabelSmoothing",
]
