"""Standard training: cross-entropy with the label."""

import torch.nn.functional as F
from torch import Tensor

from selfexplain.objectives.base import Objective, check_logits


class Standard(Objective):
    """L = CE(softmax(z), y).

    Example:
        >>> import torch
        >>> objective = Standard(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)))
        >>> objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))["loss"].backward()
    """

    takes_soft_labels = True
    recordable = True

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of images (B, C, H, W) and labels (B,) or (B, K)."""
        logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        return {"loss": F.cross_entropy(logits_BK, y_B), "output": logits_BK}
