"""What a trained classifier is worth, and how sure one can be of a difference."""

from selfexplain.evaluation.paired import PairedDifference, paired_difference
from selfexplain.evaluation.ratio import Share, share_of
from selfexplain.evaluation.scores import Scores, evaluating, predict, score

__all__ = [
    "PairedDifference",
    "Scores",
    "Share",
    "evaluating",
    "paired_difference",
    "predict",
    "score",
    "share_of",
]
