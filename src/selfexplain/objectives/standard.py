"""Losses of the output alone: cross-entropy, label smoothing, a penalty on confidence."""

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.objectives.options import ConfidencePenaltyOptions, LabelSmoothingOptions
from selfexplain.objectives.shared.base import (
    Objective,
    Range,
    Tunable,
    check_logits,
)


class Standard(Objective):
    """L = CE(softmax(z), y).

    Example:
        >>> import torch
        >>> objective = Standard(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)))
        >>> objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))["loss"].backward()
    """

    takes_soft_labels = True
    capturable = True

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of images (B, C, H, W) and labels (B,) or (B, K)."""
        logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        return {"loss": F.cross_entropy(logits_BK, y_B), "output": logits_BK}


# Label smoothing (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7).


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
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"smoothing": Range(0.02, 0.3, log=True)}

    def __init__(
        self, model: nn.Module, smoothing: float = LabelSmoothingOptions.smoothing
    ) -> None:
        LabelSmoothingOptions.check(smoothing=smoothing)
        super().__init__(model)
        self.smoothing = smoothing

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Smoothed cross-entropy of images (B, C, H, W) and labels (B,) or (B, K)."""
        logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        loss = F.cross_entropy(logits_BK, y_B, label_smoothing=self.smoothing)
        return {"loss": loss, "output": logits_BK}


# Confidence penalty.
#
# Source: Pereyra et al. 2017, "Regularizing Neural Networks by Penalizing Confident Output
# Distributions".


def entropy(logits_BK: Tensor) -> Tensor:
    """Mean entropy of softmax(logits), in nats: a scalar."""
    log_p_BK = F.log_softmax(logits_BK, dim=1)
    return -(log_p_BK.exp() * log_p_BK).sum(dim=1).mean()


class ConfidencePenalty(Objective):
    """L = CE(softmax(z), y) - beta H(softmax(z)).

    Args:
        model: maps images (B, C, H, W) to logits (B, K).
        beta: weight of the entropy; 0.1 as published for images.

    Raises:
        InputError: beta is negative.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> out = ConfidencePenalty(model)(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))
        >>> out["loss"].backward()
    """

    takes_soft_labels = True
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"beta": Range(0.01, 1.0, log=True)}

    def __init__(self, model: nn.Module, beta: float = ConfidencePenaltyOptions.beta) -> None:
        ConfidencePenaltyOptions.check(beta=beta)
        super().__init__(model)
        self.beta = beta

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Penalised cross-entropy of images (B, C, H, W) and labels (B,) or (B, K)."""
        logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        confidence = entropy(logits_BK)
        return {
            "loss": cross_entropy - self.beta * confidence,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "entropy": confidence.detach(),
        }
