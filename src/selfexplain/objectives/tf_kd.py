"""Teacher-free knowledge distillation (Tf-KD).

Source: Yuan et al. 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization",
and its authors' code.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.objectives.options import TfKDOptions
from selfexplain.objectives.shared.base import (
    Objective,
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
    softened_kl,
)
from selfexplain.objectives.shared.teacher import FrozenTeacher

PUBLISHED = {
    "virtual": {"alpha": 0.1, "temperature": 20.0},
    "self": {"alpha": 0.95, "temperature": 6.0},
}
"""The authors' settings for ResNet-18 on CIFAR-100."""


def virtual_teacher(label_BK: Tensor, correct: float, temperature: float) -> Tensor:
    """softmax(u / T) with u_y = a and u_c = (1 - a) / (K - 1) otherwise: (B, K).

    The softmax is taken of the probabilities themselves, not of their logarithms, as in the
    authors' code, so that a large T leaves nearly even predictions. Labels are one-hot, or
    distributions, for which u is the mean of the classes' u.
    """
    other = (1 - correct) / (label_BK.shape[1] - 1)
    u_BK = label_BK * correct + (1 - label_BK) * other
    return (u_BK / temperature).softmax(dim=1)


class TfKD(Objective):
    """Distillation from a hand-made teacher, or from a model like the one that is trained.

    With the virtual teacher u, and with a trained one whose logits are t:

        L = (1 - alpha) CE(softmax(z), y) + alpha KL(softmax(u / T) || softmax(z))
        L = (1 - alpha) CE(softmax(z), y) + alpha T^2 KL(softmax(t / T) || softmax(z / T))

    Args:
        model: maps images (B, C, H, W) to logits (B, K).
        teacher: a trained model with the same classes, which is frozen; None for the virtual one.
        alpha: weight of the teacher, in [0, 1]; None for 0.1 (virtual) or 0.95 (trained).
        temperature: T; None for 20 (virtual) or 6 (trained), as published.
        correct: a, the virtual teacher's probability of the true class; None for 0.99, as
            published. A trained teacher has none.

    Raises:
        InputError: an option is outside its limits, or does not go with the teacher.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> out = TfKD(model)(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))
        >>> out["loss"].backward()
    """

    takes_soft_labels = True
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"alpha": Range(0.05, 0.95)}

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module | None = None,
        *,
        alpha: float | None = TfKDOptions.alpha,
        temperature: float | None = TfKDOptions.temperature,
        correct: float | None = TfKDOptions.correct,
    ) -> None:
        TfKDOptions.check(alpha=alpha, temperature=temperature, correct=correct)
        super().__init__(model)
        if teacher is not None and correct is not None:
            raise InputError(
                "correct belongs to the virtual teacher, and this one is trained; leave it out, "
                "or pass teacher virtual"
            )
        defaults = PUBLISHED["virtual" if teacher is None else "self"]
        self.alpha = defaults["alpha"] if alpha is None else alpha
        self.temperature = defaults["temperature"] if temperature is None else temperature
        self.correct = 0.99 if correct is None else correct
        self.teacher = None if teacher is None else FrozenTeacher(teacher)

    @classmethod
    def from_context(
        cls,
        model: nn.Module,
        context: ObjectiveContext,
        *,
        teacher: str = TfKDOptions.teacher,
        **options: Any,
    ) -> Self:
        """Build the objective; teacher "self" is the run's trained model.

        Raises:
            InputError: there is no such kind of teacher, or the run has no trained model.
        """
        TfKDOptions.check(teacher=teacher)
        if teacher == "virtual":
            return cls(model, None, **options)
        if context.teacher is None:
            raise InputError(
                "tf_kd with teacher self needs a trained model; pass one, or teacher virtual"
            )
        return cls(model, context.teacher, **options)

    @classmethod
    def teacher_spec(cls, options: Mapping[str, Any]) -> str | None:
        """Teacher "self" is a model trained with the label alone."""
        return "standard" if options["teacher"] == "self" else None

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images and labels (B,) or (B, K); terms cross_entropy and distillation."""
        logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        if self.teacher is None:
            distillation = self._from_virtual(logits_BK, y_B)
        else:
            teacher_BK = check_logits(self.teacher(x_BCHW), y_B, soft=True)
            distillation = softened_kl(logits_BK, teacher_BK, self.temperature).mean()
        return {
            "loss": (1 - self.alpha) * cross_entropy + self.alpha * distillation,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "distillation": distillation.detach(),
        }

    def _from_virtual(self, logits_BK: Tensor, y_B: Tensor) -> Tensor:
        """KL from the hand-made teacher; the model's own side is not softened."""
        label_BK = y_B if y_B.ndim == 2 else F.one_hot(y_B, logits_BK.shape[1])
        log_p_BK = logits_BK.log_softmax(dim=1)
        target_BK = virtual_teacher(label_BK.to(log_p_BK.dtype), self.correct, self.temperature)
        return F.kl_div(log_p_BK, target_BK, reduction="batchmean")
