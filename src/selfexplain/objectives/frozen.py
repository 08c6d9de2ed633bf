"""A trained model that is asked and never changed: the teacher of a distillation."""

from typing import Self

import torch
from torch import Tensor, nn


class Frozen(nn.Module):
    """A model in evaluation mode for good, without gradients to its weights or its images.

    As a submodule of an objective it moves between devices and is saved with it, but
    `objective.train()` leaves it in evaluation mode and its parameters do not require gradients, so
    that no optimiser that honours `requires_grad` moves them.

    Args:
        model: maps images (B, C, H, W) to logits (B, K). It is frozen itself, not a copy of it.

    Example:
        >>> objective = nn.Module()
        >>> objective.teacher = Frozen(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout()))
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
