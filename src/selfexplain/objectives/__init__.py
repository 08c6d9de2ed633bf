"""The shelf of objectives that the methods are compared with: one file a method."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
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

lazily(
    __name__,
    {
        "auxiliary_head": "WithAuxiliaryHead",
        "base": "Objective",
        "born_again": "BornAgain",
        "byot": "BYOT",
        "cgc": "ContrastiveGradCam",
        "confidence_penalty": "ConfidencePenalty",
        "context": "ObjectiveContext",
        "cs_kd": "CSKD",
        "cutmix": "CutMix",
        "distil_part": "DistilPart",
        "dkd": "DKD",
        "dlb": "DLB",
        "dml": "DML",
        "frozen": "Frozen",
        "icasc": "AttentionSeparability",
        "kd": "KD",
        "label_smoothing": "LabelSmoothing",
        "lsx": "LearnerCritic",
        "mixing": "Mixing",
        "mixup": "Mixup",
        "ols": "OnlineLabelSmoothing",
        "ps_kd": "PSKD",
        "saliency_guided": "SaliencyGuided",
        "standard": "Standard",
        "taught": "Taught",
        "tf_kd": "TfKD",
        "tunable": "Choice Range Tunable",
        "zipf": "ZipfLabelSmoothing",
    },
)
