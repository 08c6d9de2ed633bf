"""Online label smoothing.

Source: Zhang et al. 2021, "Delving Deep into Label Smoothing", and its authors' code.

Shape suffixes: B batch, C channels, H and W space, K classes; in KK the first is the true class.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.distributed import gathered
from selfexplain.objectives.options import OLSOptions
from selfexplain.objectives.shared.base import (
    Objective,
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
)
from selfexplain.objectives.shared.memory import Epochs, check_rows


def correct_sums(p_BK: Tensor, y_B: Tensor) -> Tensor:
    """For each class, the sum of the predictions of its images that are predicted right: (K, K).

    A row's own sum is therefore the number of those images.
    """
    right_B = p_BK.argmax(dim=1) == y_B
    onehot_BK = F.one_hot(y_B, p_BK.shape[1]).to(p_BK.dtype)
    return (onehot_BK * right_B.unsqueeze(1)).T @ p_BK


def soft_labels(sums_KK: Tensor) -> Tensor:
    """Each class's mean right prediction; even over all classes for one without any: (K, K)."""
    count_K1 = sums_KK.sum(dim=1, keepdim=True)
    tiny = torch.finfo(sums_KK.dtype).tiny
    return torch.where(count_K1 > 0, sums_KK / count_K1.clamp_min(tiny), 1 / len(sums_KK))


class OnlineLabelSmoothing(Objective):
    """L = alpha CE(softmax(z), y) + (1 - alpha) CE(softmax(z), S_y).

    S_y is the mean of what the model predicted, in the epoch before, for the images of class y
    that it predicted right. In the first epoch it is even over all classes.

    Args:
        model: maps images (B, C, H, W) to logits (B, K).
        num_classes: K.
        alpha: weight of the label, in [0, 1]; 0.5 as published.

    Raises:
        InputError: alpha is outside [0, 1]; at a call, if no epoch was begun.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> objective = OnlineLabelSmoothing(model, num_classes=3)
        >>> objective.begin_epoch(0, epochs=2)
        >>> objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))["loss"].backward()
    """

    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"alpha": Range(0.2, 0.9)}
    soft_KK: Tensor
    sums_KK: Tensor

    def __init__(
        self, model: nn.Module, *, num_classes: int, alpha: float = OLSOptions.alpha
    ) -> None:
        OLSOptions.check(alpha=alpha)
        super().__init__(model)
        self.alpha = alpha
        self.epochs = Epochs()
        self.register_buffer("soft_KK", torch.full((num_classes, num_classes), 1 / num_classes))
        self.register_buffer("sums_KK", torch.zeros(num_classes, num_classes))

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective with soft labels for the run's classes."""
        return cls(model, num_classes=context.num_classes, **options)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Make the soft labels from the predictions since the last call, if there are any."""
        if self.epochs.begin(epoch, epochs) and bool(self.sums_KK.any()):
            self.soft_KK.copy_(soft_labels(self.sums_KK))
            self.sums_KK.zero_()

    def skip_warmup(self) -> None:
        """Nothing to skip: a step costs the same in every epoch."""
        self.epochs.begin(0, 1)

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,); terms cross_entropy and soft."""
        logits_BK = check_logits(self.model(x_BCHW), y_B)
        if self.training:
            self.epochs.check_begun()
        soft_BK = self.soft_KK[y_B]
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        soft = F.cross_entropy(logits_BK.to(soft_BK.dtype), soft_BK)
        if self.training and torch.is_grad_enabled():
            self._listen(logits_BK, y_B)
        return {
            "loss": self.alpha * cross_entropy + (1 - self.alpha) * soft,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "soft": soft.detach(),
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; InputError if the checkpoint is of another number of classes."""
        check_rows(state_dict, prefix + "soft_KK", self.soft_KK, "num_classes")
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def _listen(self, logits_BK: Tensor, y_B: Tensor) -> None:
        p_BK = logits_BK.softmax(dim=1, dtype=self.sums_KK.dtype)
        with torch.autocast(y_B.device.type, enabled=False):
            self.sums_KK += correct_sums(gathered(p_BK), gathered(y_B))
