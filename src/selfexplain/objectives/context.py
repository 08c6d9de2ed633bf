"""What an objective may need to know of a run beside its model and its options."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveContext:
    """The run that an objective is built for.

    Example:
        >>> from selfexplain.models import build_model
        >>> context = ObjectiveContext(
        ...     num_classes=5,
        ...     image_shape=(1, 8, 8),
        ...     num_images=100,
        ...     make_model=lambda: build_model("small_cnn", num_classes=5, in_channels=1),
        ... )
        >>> context.teacher is None
        True
    """

    num_classes: int
    """K."""
    image_shape: tuple[int, int, int]
    """(C, H, W) of a training image."""
    num_images: int
    """Images in the training set; indices that an objective is given lie below it."""
    make_model: Callable[[], nn.Module]
    """Another untrained model of the kind that is trained; draws its weights from the global
    generator."""
    batch_size: int | None = None
    """Images in a step, over all processes together; None if that is not known."""
    teacher: nn.Module | None = None
    """A trained model with the same classes, for an objective that asks for one."""
