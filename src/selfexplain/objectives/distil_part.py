"""Distillation of a part of what a teacher says: which part carries the gain?

The question opens Gu, Wu and Tresp, "Introspective Learning by Distilling Knowledge from Online
Self-explanation" (ACCV 2020), of which the abstract and parts of the introduction were read; how
the parts are cut is our choice.

Shape suffixes: B batch, C channels, H and W space, K classes (in KK the first is the true class),
J = K - 1 classes that are not true.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.distributed import gathered
from selfexplain.objectives.options import PARTS, DistilPartOptions, Part
from selfexplain.objectives.shared.base import (
    Counts,
    KeepsPrecision,
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
    non_target,
    put_together,
)
from selfexplain.objectives.shared.teacher import DistillationObjective


def virtual_mass(confidence: float, classes: int, temperature: float) -> float:
    """The true class's mass, softened by T, of a teacher that is always right and equally sure.

    Its probability is `confidence` at T = 1; the other classes share the rest evenly.
    """
    true = math.pow(confidence, 1 / temperature)
    rest = (classes - 1) * math.pow((1 - confidence) / max(classes - 1, 1), 1 / temperature)
    return true / (true + rest)


def permuted_rows(others_BJ: Tensor, generator: torch.Generator) -> Tensor:
    """Each row's values in its own order, drawn on the CPU so that every device draws alike."""
    order_BJ = torch.rand(others_BJ.shape, generator=generator).argsort(dim=1)
    return others_BJ.gather(1, order_BJ.to(others_BJ.device))


# What a teacher says on average of the images of each class.


class TeacherMeans(KeepsPrecision):
    """Mean of the rows q (B, K) seen so far, for each true class; every image counts the same.

    The teacher is fixed, so after an epoch these are its means over the training set, as it was
    augmented. With several processes they are those of all of them, which must all take part.
    """

    mean_KK: Tensor
    count_K: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean_KK", torch.zeros(num_classes, num_classes))
        self.register_buffer("count_K", torch.zeros(num_classes))

    @torch.no_grad()
    def update(self, q_BK: Tensor, y_B: Tensor) -> None:
        """Include the rows of one batch with true classes (B,)."""
        q_BK, y_B = gathered(q_BK.float()), gathered(y_B)
        onehot_BK = F.one_hot(y_B, len(self.count_K)).to(q_BK.dtype)
        new_K = onehot_BK.sum(dim=0)
        with torch.autocast(q_BK.device.type, enabled=False):
            sum_KK = onehot_BK.T @ q_BK
        self.count_K += new_K
        moved_KK = sum_KK - new_K.unsqueeze(1) * self.mean_KK
        self.mean_KK += moved_KK / self.count_K.clamp_min(1).unsqueeze(1)

    def of_class(self, q_BK: Tensor, y_B: Tensor) -> Tensor:
        """The mean of each image's class, (B, K); the image's own row for a class not seen yet."""
        return torch.where(self.count_K[y_B].unsqueeze(1) > 0, self.mean_KK[y_B], q_BK)

    def true_mass(self, mass_B: Tensor) -> Tensor:
        """The mean mass of the true class over all images, (B,); `mass_B` before any was seen."""
        seen = self.count_K.sum()
        mean = (self.mean_KK.diagonal() * self.count_K).sum() / seen.clamp_min(1)
        return torch.where(seen > 0, mean, mass_B)


class DistilPart(DistillationObjective):
    """L = (1 - alpha) CE(softmax(z), y) + alpha T^2 KL(target || softmax(z / T)).

    The target is the teacher's softmax(t / T) with one part of it replaced (`PARTS`):

        full        as it is; this is `KD`
        true_only   mass of the true class kept, the rest spread evenly over the others
        permuted    mass kept, the others' values shuffled, anew for each image in each step
        averaged    mass kept, the others share the rest as in the mean output for the class
        class_mean  the teacher's mean output for the class
        similarity  the image's shares of the others kept, mass the mean over all images
        uniform     mass the mean over all images, the rest spread evenly: label smoothing as strong
                    as the teacher is unsure
        virtual     a made-up teacher of fixed confidence, the rest spread evenly

    Means are those over the images seen so far, of the softened outputs.

    Args:
        model: the student; maps images (B, C, H, W) to logits z (B, K).
        teacher: a trained model with logits t of the same classes.
        num_classes: K.
        part: which part of the teacher's output is kept.
        alpha: share of the distillation, in [0, 1]; as in `KD`.
        temperature: T > 0; as in `KD`.
        confidence: of the virtual teacher at T = 1; 0.99 as Yuan et al. 2020 published it for
            theirs ("Revisiting Knowledge Distillation via Label Smoothing Regularization"), which
            has T = 20.

    Raises:
        InputError: an option is out of its limits, or the teacher does not fit.

    Example:
        >>> def linear():
        ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> objective = DistilPart(linear(), linear(), num_classes=3, part="similarity")
        >>> objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))["loss"].backward()
    """

    tunable: ClassVar[Mapping[str, Tunable]] = {
        "alpha": Range(0.1, 1.0),
        "temperature": Range(1.0, 10.0, log=True),
    }

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        num_classes: int,
        part: Part = DistilPartOptions.part,
        alpha: float = DistilPartOptions.alpha,
        temperature: float = DistilPartOptions.temperature,
        confidence: float = DistilPartOptions.confidence,
    ) -> None:
        DistilPartOptions.check(
            part=part, alpha=alpha, temperature=temperature, confidence=confidence
        )
        super().__init__(model, teacher)
        self.mass, self.others = PARTS[part]
        self.alpha = alpha
        self.temperature = temperature
        self.virtual = virtual_mass(confidence, num_classes, temperature)
        self.means = TeacherMeans(num_classes)
        self.counts = Counts(steps=0)

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective with the run's teacher and number of classes."""
        return super().from_context(model, context, num_classes=context.num_classes, **options)

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,); terms cross_entropy and distillation."""
        logits_BK = check_logits(self.model(x_BCHW), y_B)
        teacher_BK = self.teacher_logits(x_BCHW, logits_BK).float() / self.temperature
        if self.training:
            self.means.update(teacher_BK.softmax(dim=1), y_B)
            self.counts["steps"] += 1
        log_p_BK = F.log_softmax(logits_BK.float() / self.temperature, dim=1)
        kl = F.kl_div(log_p_BK, self.target(teacher_BK, y_B), reduction="batchmean")
        distillation = self.temperature**2 * kl
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        return {
            "loss": (1 - self.alpha) * cross_entropy + self.alpha * distillation,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "distillation": distillation.detach(),
        }

    def target(self, teacher_BK: Tensor, y_B: Tensor) -> Tensor:
        """What the student is taught, (B, K), from the teacher's logits divided by T."""
        q_BK = teacher_BK.softmax(dim=1)
        others_BJ = self._others(q_BK, non_target(teacher_BK, y_B).softmax(dim=1), y_B)
        return put_together(self._mass(q_BK, y_B), others_BJ, y_B)

    def _mass(self, q_BK: Tensor, y_B: Tensor) -> Tensor:
        """Mass of the true class in the target, (B,)."""
        row_BK = self.means.of_class(q_BK, y_B) if self.mass == "class" else q_BK
        mass_B = row_BK.gather(1, y_B.unsqueeze(1)).squeeze(1)
        if self.mass == "all":
            return self.means.true_mass(mass_B)
        return torch.full_like(mass_B, self.virtual) if self.mass == "virtual" else mass_B

    def _others(self, q_BK: Tensor, others_BJ: Tensor, y_B: Tensor) -> Tensor:
        """Shares of the other classes in the target, (B, J), from those of the teacher."""
        if self.others == "class":
            mean_BJ = non_target(self.means.of_class(q_BK, y_B), y_B)
            return mean_BJ / mean_BJ.sum(dim=1, keepdim=True)
        if self.others == "permuted":
            generator = torch.Generator().manual_seed(self.counts["steps"])
            return permuted_rows(others_BJ, generator)
        if self.others == "even":
            return torch.full_like(others_BJ, 1 / others_BJ.shape[1])
        return others_BJ

    def get_extra_state(self) -> Tensor:
        """The number of steps (1,), from which each step's permutation is drawn."""
        return self.counts.tensor_N

    def set_extra_state(self, state: Tensor | Mapping[str, int]) -> None:
        """Restore the number of steps."""
        self.counts.load(state)
