"""The baselines with which Introspective Learning is compared: one module a method."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.objectives.auxiliary_head import WithAuxiliaryHead
    from selfexplain.objectives.byot import BYOT
    from selfexplain.objectives.cgc import ContrastiveGradCam
    from selfexplain.objectives.cs_kd import CSKD
    from selfexplain.objectives.dense_places import DensePlaces
    from selfexplain.objectives.distil_part import DistilPart
    from selfexplain.objectives.dkd import DKD
    from selfexplain.objectives.dlb import DLB
    from selfexplain.objectives.dml import DML
    from selfexplain.objectives.icasc import AttentionSeparability
    from selfexplain.objectives.kd import KD, BornAgain
    from selfexplain.objectives.lsx import LearnerCritic
    from selfexplain.objectives.mixing import CutMix, Mixing, Mixup
    from selfexplain.objectives.ols import OnlineLabelSmoothing
    from selfexplain.objectives.ps_kd import PSKD
    from selfexplain.objectives.saliency_guided import SaliencyGuided
    from selfexplain.objectives.shared.base import (
        Choice,
        Objective,
        ObjectiveContext,
        Range,
        Tunable,
    )
    from selfexplain.objectives.shared.teacher import DistillationObjective, FrozenTeacher
    from selfexplain.objectives.standard import ConfidencePenalty, LabelSmoothing, Standard
    from selfexplain.objectives.tf_kd import TfKD
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
    "DensePlaces",
    "DistilPart",
    "DistillationObjective",
    "FrozenTeacher",
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
    "TfKD",
    "Tunable",
    "WithAuxiliaryHead",
    "ZipfLabelSmoothing",
]

lazily(
    __name__,
    {
        "auxiliary_head": "WithAuxiliaryHead",
        "byot": "BYOT",
        "cgc": "ContrastiveGradCam",
        "cs_kd": "CSKD",
        "dense_places": "DensePlaces",
        "distil_part": "DistilPart",
        "dkd": "DKD",
        "dlb": "DLB",
        "dml": "DML",
        "icasc": "AttentionSeparability",
        "kd": "BornAgain KD",
        "lsx": "LearnerCritic",
        "mixing": "CutMix Mixing Mixup",
        "ols": "OnlineLabelSmoothing",
        "ps_kd": "PSKD",
        "saliency_guided": "SaliencyGuided",
        "shared.base": "Choice Objective ObjectiveContext Range Tunable",
        "shared.teacher": "DistillationObjective FrozenTeacher",
        "standard": "ConfidencePenalty LabelSmoothing Standard",
        "tf_kd": "TfKD",
        "zipf": "ZipfLabelSmoothing",
    },
)
