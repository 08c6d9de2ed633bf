"""Objectives that learn from a trained teacher: what they have in common.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from selfexplain.errors import InputError
from selfexplain.objectives.shared.base import Counts, Objective, ObjectiveContext

# A trained model that is asked and never changed: the teacher of a distillation.


class FrozenTeacher(nn.Module):
    """A model permanently in evaluation mode, without gradients to its weights or its images.

    As a submodule of an objective it moves between devices and is saved with it, but
    `objective.train()` leaves it in evaluation mode and its parameters do not require gradients, so
    that no optimizer that honours `requires_grad` moves them.

    Args:
        model: maps images (B, C, H, W) to logits (B, K). It is frozen itself, not a copy of it.

    Example:
        >>> objective = nn.Module()
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout())
        >>> objective.teacher = FrozenTeacher(model)
        >>> objective.train().teacher.model[2].training
        False
        >>> objective.teacher(torch.zeros(2, 1, 2, 2)).requires_grad
        False
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W), without a graph."""
        logits_BK: Tensor = self.model(x_BCHW)
        return logits_BK


class WeightAverage(FrozenTeacher):
    """A running average of a model's weights, which teaches as a frozen model does.

    A copy of the model in evaluation mode. Each update moves its weights, and its buffers of real
    numbers, by (1 - decay) towards the model's; other buffers are copied. The first update copies
    all, so that a model may be given its first weights after the objective is built. The average
    has the precision of the weights: of a model in bfloat16 it does not follow small changes.

    Args:
        model: is copied, and left alone.
        decay: share of the average that an update keeps, in [0, 1).

    Raises:
        InputError: the model has layers without a shape, which cannot be copied.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> average = WeightAverage(model, decay=0.9)
        >>> average.update(model)
        >>> _ = nn.init.constant_(model[1].bias, 1.0)
        >>> before = average.model[1].bias.clone()
        >>> average.update(model)
        >>> torch.allclose(average.model[1].bias, 0.9 * before + 0.1)
        True
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if any(is_lazy(tensor) for tensor in model.parameters()):
            raise InputError(
                "the model has layers that take their shape from the first images, and no average "
                "of their weights can be made; call the model once before"
            )
        super().__init__(copy.deepcopy(model))
        self.model.zero_grad(set_to_none=True)
        self.decay = decay
        self.counts = Counts(updates=0)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights and buffers of the model."""
        step = 1 - self.decay if self.counts["updates"] else 1.0
        self.counts["updates"] += 1
        mine, theirs = (chain(each.parameters(), each.buffers()) for each in (self.model, model))
        for average, value in zip(mine, theirs, strict=True):
            if average.is_floating_point() and step < 1:
                average.lerp_(value.to(average), step)
            else:
                average.copy_(value)

    def get_extra_state(self) -> Tensor:
        """The number of updates, (1,); recorded steps, which come later, are not counted."""
        return self.counts.tensor_N

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` returned."""
        self.counts.load(state)


class DistillationObjective(Objective):
    """An objective around a student and a frozen teacher.

    The teacher is a submodule, so that it moves between devices and is saved with the objective; it
    stays in evaluation mode and gets no gradients. Subclasses implement `forward`.

    Args:
        model: the student; maps images (B, C, H, W) to logits (B, K).
        teacher: a trained model for the same images and classes; it is frozen.

    Raises:
        InputError: the teacher is the student itself; at a call, if the teacher's output has
            another shape than the student's.

    Example:
        >>> import torch
        >>> def linear():
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> taught = DistillationObjective(linear(), linear())
        >>> taught.teacher_logits(torch.zeros(2, 1, 2, 2), torch.zeros(2, 3)).requires_grad
        False
    """

    def __init__(self, model: nn.Module, teacher: nn.Module) -> None:
        if teacher is model:
            raise InputError("the teacher is the model itself; pass another model that is trained")
        super().__init__(model)
        self.teacher = FrozenTeacher(teacher)

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective with the run's teacher."""
        if context.teacher is None:
            raise InputError(
                f"{cls.__name__} learns from a trained teacher and was given none; pass a teacher"
            )
        return cls(model, context.teacher, **options)

    @classmethod
    def teacher_spec(cls, options: Mapping[str, Any]) -> str | None:
        """A teacher that was trained on the labels alone."""
        del options
        return "standard"

    def teacher_logits(self, x_BCHW: Tensor, logits_BK: Tensor) -> Tensor:
        """The teacher's logits (B, K) of the images that the student's logits are of."""
        teacher_BK: Tensor = self.teacher(x_BCHW)
        shape = tuple(teacher_BK.shape) if isinstance(teacher_BK, Tensor) else ()
        if shape != tuple(logits_BK.shape):
            raise InputError(
                f"the teacher returned shape {shape} where the student returned "
                f"{tuple(logits_BK.shape)}; pass a teacher with the same classes"
            )
        return teacher_BK
