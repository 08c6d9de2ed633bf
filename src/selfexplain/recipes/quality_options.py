"""How the explanations of a run are evaluated."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfexplain.limits import Count, NotNegative, Positive, Seed, check_options


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityOptions:
    """Which images explanations are evaluated on, and how closely; for --evaluate."""

    count: Count = 200
    """Number of the run's scored images that are drawn, by --seed; all if there are fewer."""
    seed: Seed = 0
    """Seed of the images, perturbations and randomised weights: the same for all runs."""
    steps: Count = 32
    """Steps of the deletion and insertion paths."""
    samples: Count = 50
    """Perturbations of each image for infidelity."""
    radius: Positive = 0.02
    """Largest change of a normalised pixel for max-sensitivity."""
    neighbours: Count = 10
    """Images nearby that max-sensitivity looks at."""
    boxes: Path | None = None
    """CSV file with the boxes of objects in image files, for the pointing game."""
    tolerance: NotNegative = 0.0
    """Pixels of the model's images by which each box is widened."""
    values: bool = False
    """Keep the values of every image in the results, not only mean and standard deviation."""
    batch_size: Count = 500
    """Largest number of images in one forward pass."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing."""
        check_options(self)
