"""Knowledge distillation, and born-again networks.

Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.objectives.options import BornAgainOptions, KDOptions
from selfexplain.objectives.shared.base import (
    Range,
    Tunable,
    check_logits,
    softened_kl,
)
from selfexplain.objectives.shared.teacher import DistillationObjective


class KD(DistillationObjective):
    """L = (1 - alpha) CE(softmax(z), y) + alpha T^2 KL(softmax(t / T) || softmax(z / T)).

    Args:
        model: the student; maps images (B, C, H, W) to logits z (B, K).
        teacher: a trained model with logits t of the same classes.
        alpha: share of the distillation, in [0, 1]. The paper asks for much more weight on it than
            on the labels and names no number; 0.9 is what most later comparisons use.
        temperature: T > 0; 4 in most later comparisons.

    Raises:
        InputError: an option is out of its limits, or the teacher does not fit.

    Example:
        >>> import torch
        >>> def linear():
        ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> out = KD(linear(), teacher=linear())(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))
        >>> out["loss"].backward()
    """

    takes_soft_labels = True
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "alpha": Range(0.1, 1.0),
        "temperature": Range(1.0, 10.0, log=True),
    }

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        alpha: float = KDOptions.alpha,
        temperature: float = KDOptions.temperature,
    ) -> None:
        KDOptions.check(alpha=alpha, temperature=temperature)
        super().__init__(model, teacher)
        self.alpha = alpha
        self.temperature = temperature

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W), labels (B,) or (B, K); cross_entropy and distillation."""
        logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        teacher_BK = self.teacher_logits(x_BCHW, logits_BK)
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        distillation = softened_kl(logits_BK, teacher_BK, self.temperature).mean()
        return {
            "loss": (1 - self.alpha) * cross_entropy + self.alpha * distillation,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "distillation": distillation.detach(),
        }


# Born-again networks: students of their own kind, one generation after the other.
#
# Source: Furlanello, Lipton, Tschannen, Itti and Anandkumar 2018, "Born-Again Neural Networks",
# section 3.


class BornAgain(DistillationObjective):
    """L = KL(softmax(t) || softmax(z)) + w CE(softmax(z), y), t of the generation before.

    Generation 0 learns from the labels; generation g from generation g - 1, with the same network
    and a new start. This class is one generation's training; a run trains those before it. The
    paper's ensemble of all generations is not made.

    Args:
        model: the student; maps images (B, C, H, W) to logits z (B, K).
        teacher: the generation before, with logits t; as published a network of the same kind.
        generations: which generation the student is, counted from 1. It changes who the teacher is
            (`teacher_spec`), not the loss.
        label_weight: w; 0, learning from the teacher alone, and 1 are both in the paper.

    Raises:
        InputError: an option is out of its limits, or the teacher does not fit.

    Example:
        >>> import torch
        >>> def linear():
        ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> objective = BornAgain(linear(), teacher=linear())
        >>> objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))["loss"].backward()
        >>> BornAgain.teacher_spec({"generations": 3, "label_weight": 1.0})
        'born_again:generations=2,label_weight=1.0'
    """

    takes_soft_labels = True
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"label_weight": Range(0.0, 1.0)}

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        generations: int = BornAgainOptions.generations,
        label_weight: float = BornAgainOptions.label_weight,
    ) -> None:
        BornAgainOptions.check(generations=generations, label_weight=label_weight)
        super().__init__(model, teacher)
        self.label_weight = label_weight

    @classmethod
    def teacher_spec(cls, options: Mapping[str, Any]) -> str | None:
        """The generation before: with the same options, or for the first one `standard`."""
        generations = options.get("generations", BornAgainOptions.generations)
        if generations <= 1:
            return "standard"
        before = {**options, "generations": generations - 1}
        return "born_again:" + ",".join(f"{name}={value}" for name, value in before.items())

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W), labels (B,) or (B, K); cross_entropy and distillation."""
        logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        teacher_BK = self.teacher_logits(x_BCHW, logits_BK)
        distillation = softened_kl(logits_BK, teacher_BK, temperature=1.0).mean()
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        return {
            "loss": distillation + self.label_weight * cross_entropy,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "distillation": distillation.detach(),
        }
