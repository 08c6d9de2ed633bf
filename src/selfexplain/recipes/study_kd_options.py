"""The options of study-kd."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from selfexplain.errors import InputError
from selfexplain.objectives.teacher_parts import PARTS
from selfexplain.recipes.options import CompareConfig, name_folder
from selfexplain.training import TrainingOptions

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
