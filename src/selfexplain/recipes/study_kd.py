"""Which part of a teacher's output carries the gain of distillation?

A comparison of plain training with students of parts of one teacher's output (`distil_part`); its
folder holds what a comparison's does, and `study.json`, `table.md` and `study.png`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from selfexplain.errors import InputError
from selfexplain.evaluation import share_of
from selfexplain.objectives.teacher_parts import PARTS
from selfexplain.recipes.compare import run_comparison
from selfexplain.recipes.environment import first_process
from selfexplain.recipes.options import CompareConfig, name_folder
from selfexplain.sweeps import Watch, ignore
from selfexplain.training import TrainingOptions
from selfexplain.training.files import write_json

PLAIN, FULL = "standard", "distil_part"


def part_spec(part: str) -> str:
    """Spec of the student of a part.

    Example:
        >>> part_spec("full"), part_spec("similarity")
        ('distil_part', 'distil_part:part=similarity')
    """
    return FULL if part == "full" else f"{FULL}:part={part}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyKDConfig(CompareConfig):
    """Find which part of a teacher's output carries the gain of distillation.

    Trains a teacher for each seed, or takes the one given, then students on the whole of its output
    and on parts of it, and says how much of the whole's gain over plain training each part brings.
    The same command again continues a study that was stopped; seeds may be added.

    Example:
        >>> from selfexplain.recipes.options import DataOptions
        >>> config = StudyKDConfig(data=DataOptions(data="digits"))
        >>> config.objectives[:3]
        ('standard', 'distil_part', 'distil_part:part=true_only')
    """

    objectives: tuple[str, ...] = (PLAIN, *(part_spec(part) for part in PARTS))
    """Plain training, students of all of the teacher's output, and of parts of it. The first two
    must stay; others may be left out or added."""
    training: Annotated[TrainingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: TrainingOptions(epochs=10)
    )

    def __post_init__(self) -> None:
        """Refuse a study without the two that the others are measured by; name the folder."""
        if self.objectives[:2] != (PLAIN, FULL):
            raise InputError(
                f"objectives are {' '.join(self.objectives)}; pass {PLAIN} {FULL} first, since "
                "gains are over the first and shares are of the second"
            )
        if self.options.distil_part.part != "full":
            raise InputError(
                f"part is {self.options.distil_part.part}; leave out --distil-part.part, the "
                "study goes through all parts"
            )
        name_folder(self, "study-kd", self.model, free=("objectives", "seeds"))
        CompareConfig.__post_init__(self)


def run_study(config: StudyKDConfig, watch: Watch = ignore) -> dict[str, Any]:
    """Run or continue a study; return what `study.json` holds.

    Raises:
        InputError: the folder holds another comparison, or the configuration cannot be used.
    """
    study = study_of(run_comparison(config, watch))
    if first_process():
        write_json(config.out / "study.json", study)
    return study


def study_of(results: dict[str, Any]) -> dict[str, Any]:
    """The gains over the first objective of a comparison, and shares of the second's gain.

    Args:
        results: what `results.json` holds.
    """
    specs = [line["objective"] for line in results["summary"]]
    accuracy = {
        spec: [row["accuracy"] for row in results["rows"] if row["objective"] == spec]
        for spec in specs
    }
    gains = {
        spec: [a - b for a, b in zip(accuracy[spec], accuracy[specs[0]], strict=True)]
        for spec in specs
    }
    rows = []
    for spec, line in zip(specs, results["summary"], strict=True):
        share = share_of(gains[spec], gains[specs[1]])
        rows.append(
            {
                **line,
                "part": {specs[0]: "plain", specs[1]: "full"}.get(spec, part_name(spec)),
                "gain_mean": line["difference_mean"],
                "gain_ci95": line["difference_ci95"],
                "share": share.ratio,
                "share_ci95": share.ci95,
            }
        )
    return {"schema": 1, "config": results["config"], "rows": rows}


def part_name(spec: str) -> str:
    """Name of a student in tables: its part's, where that says all of it.

    Example:
        >>> part_name("distil_part:part=uniform"), part_name("label_smoothing")
        ('uniform', 'label_smoothing')
    """
    return {part_spec(part): str(part) for part in PARTS}.get(spec, spec)
