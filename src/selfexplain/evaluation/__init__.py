"""What a trained classifier is worth, and how sure one can be of a difference."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.evaluation.metrics import (
        Scores,
        adaptive_calibration_error,
        aurc,
        calibration_error,
        cross_scaled,
        evaluating,
        excess_aurc,
        fit_temperature,
        predict,
        risk_coverage,
        score,
    )
    from selfexplain.evaluation.statistics import (
        PairedDifference,
        Share,
        holm,
        paired_difference,
        share_of,
    )

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
        "metrics": (
            "Scores adaptive_calibration_error aurc calibration_error cross_scaled "
            "evaluating excess_aurc fit_temperature predict risk_coverage score"
        ),
        "statistics": "PairedDifference Share holm paired_difference share_of",
    },
)
