"""How the explanations of a run are evaluated."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfexplain.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityOptions:
    """Which images explanations are evaluated on, and how closely; for --evaluate."""

    count: int = 200
    """Number of the run's scored images that are drawn, by --seed; all if there are fewer."""
    seed: int = 0
    """Seed of the images, perturbations and randomised weights: the same for all runs."""
    steps: int = 32
    """Steps of the deletion and insertion paths."""
    samples: int = 50
    """Perturbations of each image for infidelity."""
    radius: float = 0.02
    """Largest change of a normalised pixel for max-sensitivity."""
    neighbours: int = 10
    """Images nearby that max-sensitivity looks at."""
    boxes: Path | None = None
    """CSV file with the boxes of objects in image files, for the pointing game."""
    tolerance: float = 0.0
    """Pixels of the model's images by which each box is widened."""
    values: bool = False
    """Keep the values of every image in the results, not only mean and standard deviation."""
    batch_size: int = 500
    """Largest number of images in one forward pass."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing."""
        for name in ("count", "steps", "samples", "neighbours", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}; pass a whole number of at least 1"
                )
        if self.radius <= 0:
            raise InputError(f"radius is {self.radius:g}; pass a number above 0")
        if self.tolerance < 0:
            raise InputError(f"tolerance is {self.tolerance:g}; pass a number of at least 0")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed is {self.seed}; pass a whole number from 0 to 2^63 - 1")
