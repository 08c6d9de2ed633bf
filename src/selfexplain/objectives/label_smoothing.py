"""Label smoothing (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7)."""

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.objectives.base import Objective, check_in_range, check_logits
from selfexplain.objectives.tunable import Range, Tunable


class LabelSmoothing(Objective):
    """L = CE(softmax(z), (1 - s) onehot(y) + s / K).

    Args:
        model: maps images (B, C, H, W) to logits (B, K).
        smoothing: s in [0, 1], the mass spread evenly over all K classes; 0.1 as published.

    Raises:
        InputError: smoothing is outside [0, 1].

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> out = LabelSmoothing(model)(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))
        >>> out["loss"].backward()
    """

    takes_soft_labels = True
    recordable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"smoothing": Range(0.02, 0.3, log=True)}

    def __init__(self, model: nn.Module, smoothing: float = 0.1) -> None:
        check_in_range("smoothing", smoothing, 0.0, 1.0)
        super().__init__(model)
        self.smoothing = smoothing

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Smoothed cross-entropy of images (B, C, H, W) and labels (B,) or (B, K)."""
        logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        loss = F.cross_entropy(logits_BK, y_B, label_smoothing=self.smoothing)
        return {"loss": loss, "output": logits_BK}
