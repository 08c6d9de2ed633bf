"""What a training run left for the report; what it did not leave is None.

Shape suffixes: N scored images, B images of the snapshots, R shown classes, K classes, C channels,
H and W space.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Logits of the scored images at the end of a run."""

    logits_NK: Tensor
    labels_N: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochSnapshot:
    """What a model said of the snapshots' images after one epoch."""

    epoch: int
    probabilities_BK: Tensor
    target_BK: Tensor
    """Soft target over the classes other than the true one, where it is 0."""
    classes_BR: Tensor
    """The true class; the predicted one, where that is another; those with the greatest soft
    target. Runs of older versions have the predicted one only where it is one of the last."""
    maps_BRHW: Tensor
    """Class maps of these classes, at any resolution."""
    similarity_BK: Tensor | None = None
    """Of each class's explanation to the true one's; None in runs of older versions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshots:
    """A few scored images, and what a model said of them after some of its epochs."""

    images_BCHW: Tensor
    """uint8."""
    labels_B: Tensor
    after_epochs: tuple[EpochSnapshot, ...]
    """By rising epoch."""
    planned_epochs: int
    """Of the run; it may have been stopped before."""


Reader = Callable[[str, Mapping[str, str]], dict[str, Tensor] | None]
"""From the name of a file of a run, and the shapes that its tensors must have (`files.read_shaped`;
K is the number of classes), to the tensors; None if the run left no such file."""


def nothing_left(name: str, shapes: Mapping[str, str]) -> dict[str, Tensor] | None:
    """The reader of a run without files.

    Example:
        >>> nothing_left("similarity.safetensors", {}) is None
        True
    """
    del name, shapes
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One run. What a single section shows is read by that section, with `read`."""

    objective: str
    seed: int
    class_names: tuple[str, ...]
    metrics: tuple[dict[str, Any], ...] = ()
    """One for each epoch."""
    result: dict[str, Any] | None = None
    predictions: Predictions | None = None
    snapshots: Snapshots | None = None
    control: str = "none"
    """Whose soft target an introspective objective learns from, if not its explanations'."""
    photographs: bool = False
    """Whether its images are coloured and large enough to be looked at."""
    held_out: bool = True
    """Whether the images that it was scored on are known to be none that it was trained on."""
    read: Reader = nothing_left

    @property
    def name(self) -> str:
        """How the run is called on the page."""
        return f"{self.objective}, seed {self.seed}"

    @property
    def caution(self) -> str:
        """What to know of its soft target; begins with a space, empty without a control."""
        if self.control == "none":
            return ""
        return (
            f" Here the soft target is that of the control {self.control}: it does not say which "
            "classes the explanations find alike."
        )
