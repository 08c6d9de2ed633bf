"""What a trained classifier is worth, and how sure one can be of a difference."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.evaluation.calibration import adaptive_calibration_error, calibration_error
    from selfexplain.evaluation.multiple import holm
    from selfexplain.evaluation.paired import PairedDifference, paired_difference
    from selfexplain.evaluation.ratio import Share, share_of
    from selfexplain.evaluation.scores import Scores, evaluating, predict, score
    from selfexplain.evaluation.selective import aurc, excess_aurc, risk_coverage
    from selfexplain.evaluation.temperature import cross_scaled, fit_temperature

__all__ = [
    "PairedDifference",
    "Scores",
    "Share",
    "adaptive_calibration_error",
    "aurc",
    "calibration_error",
    "cross_scaled",
    "evaluating",
    "excess_aurc",
    "fit_temperature",
    "holm",
    "paired_difference",
    "predict",
    "risk_coverage",
    "score",
    "share_of",
]

lazily(
    __name__,
    {
        "calibration": "adaptive_calibration_error calibration_error",
        "multiple": "holm",
        "paired": "PairedDifference paired_difference",
        "ratio": "Share share_of",
        "scores": "Scores evaluating predict score",
        "selective": "aurc excess_aurc risk_coverage",
        "temperature": "cross_scaled fit_temperature",
    },
)
