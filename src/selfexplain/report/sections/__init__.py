"""The sections of a report on training, one idea a file; each is a function of what runs left."""

from selfexplain.report.sections.classes import Similarity, classes_section
from selfexplain.report.sections.curves import curves_section
from selfexplain.report.sections.gallery import gallery_section
from selfexplain.report.sections.photographs import photographs_section, plain_summary
from selfexplain.report.sections.record import (
    EpochSnapshot,
    Predictions,
    Record,
    Snapshots,
)
from selfexplain.report.sections.reliability import reliability_section
from selfexplain.report.sections.scores import (
    comparison_results,
    cost_section,
    facts,
    run_results,
    study_results,
)

__all__ = [
    "EpochSnapshot",
    "Predictions",
    "Record",
    "Similarity",
    "Snapshots",
    "classes_section",
    "comparison_results",
    "cost_section",
    "curves_section",
    "facts",
    "gallery_section",
    "photographs_section",
    "plain_summary",
    "reliability_section",
    "run_results",
    "study_results",
]
