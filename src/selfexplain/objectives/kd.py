"""Knowledge distillation.

Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.objectives.base import check_in_range, check_logits
from selfexplain.objectives.softening import softened_kl
from selfexplain.objectives.taught import Taught
from selfexplain.objectives.tunable import Range, Tunable


class KD(Taught):
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
    recordable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "alpha": Range(0.1, 1.0),
        "temperature": Range(1.0, 10.0, log=True),
    }

    def __init__(
        self, model: nn.Module, teacher: nn.Module, alpha: float = 0.9, temperature: float = 4.0
    ) -> None:
        check_in_range("alpha", alpha, 0.0, 1.0)
        check_in_range("temperature", temperature, 0.01, float("inf"))
        super().__init__(model, teacher)
        self.alpha = alpha
        self.temperature = temperature

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W), labels (B,) or (B, K); cross_entropy and distillation."""
        logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        teacher_BK = self.ask_teacher(x_BCHW, logits_BK)
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        distillation = softened_kl(logits_BK, teacher_BK, self.temperature).mean()
        return {
            "loss": (1 - self.alpha) * cross_entropy + self.alpha * distillation,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "distillation": distillation.detach(),
        }
