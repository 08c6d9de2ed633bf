"""Progressive self-knowledge distillation (PS-KD).

Source: Kim et al. 2021, "Self-Knowledge Distillation with Progressive Refinement of Targets", and
its authors' code.

Shape suffixes: B batch, C channels, H and W space, K classes, N training images.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.distributed import gathered
from selfexplain.errors import InputError
from selfexplain.objectives.options import PSKDOptions
from selfexplain.objectives.shared.base import (
    Objective,
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
)
from selfexplain.objectives.shared.memory import Epochs, RisingShare, check_rows


def progressive_target(past_BK: Tensor, y_B: Tensor, share: float) -> Tensor:
    """(1 - share) onehot(y) + share past; the label alone where the past is unknown: zeros."""
    onehot_BK = F.one_hot(y_B, past_BK.shape[1]).to(past_BK.dtype)
    known_B1 = past_BK.sum(dim=1, keepdim=True) > 0
    return torch.where(known_B1, torch.lerp(onehot_BK, past_BK, share), onehot_BK)


def check_places(index_B: tuple[Tensor, ...], y_B: Tensor, count: int) -> Tensor:
    """Places (B,) given after the labels, below the count where that costs no stall."""
    if len(index_B) != 1 or index_B[0].shape != y_B.shape:
        raise InputError(
            "this objective needs each image's place in the training set; call "
            f"objective(x, y, index) with an index of shape ({len(y_B)},)"
        )
    place_B = index_B[0]
    if place_B.device.type == "cpu" and len(place_B):
        low, high = int(place_B.min()), int(place_B.max())
        if low < 0 or high >= count:
            raise InputError(
                f"index {low if low < 0 else high} is outside the {count} training images; "
                f"pass places from 0 to {count - 1}"
            )
    return place_B


class PSKD(RisingShare, Objective):
    """L = CE(softmax(z), (1 - alpha_t) onehot(y) + alpha_t p_{t-1}(x)), alpha_t = alpha t / T.

    p_{t-1}(x) is what the model predicted for the image in epoch t - 1, as it was augmented then
    and in training mode. In the first epoch the loss is the cross-entropy with the label. An image
    that an epoch left out keeps its older prediction.

    Args:
        model: maps images (B, C, H, W) to logits (B, K).
        num_images: N, images in the training set.
        num_classes: K.
        alpha: share of the past prediction in the last epoch, in [0, 1]; 0.8 as published.

    Raises:
        InputError: alpha is outside [0, 1]; at a call, if the images' places are missing or do not
            fit, or no epoch was begun.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> objective = PSKD(model, num_images=10, num_classes=3)
        >>> objective.begin_epoch(0, epochs=2)
        >>> x, y, index = torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]), torch.tensor([7, 1])
        >>> objective(x, y, index)["loss"].backward()
    """

    wants_indices = True
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"alpha": Range(0.3, 1.0)}
    past_NK: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        num_images: int,
        num_classes: int,
        alpha: float = PSKDOptions.alpha,
    ) -> None:
        PSKDOptions.check(alpha=alpha)
        super().__init__(model)
        self.alpha = alpha
        self.epochs = Epochs()
        self.register_buffer("past_NK", torch.zeros(num_images, num_classes))

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective with a table for the run's images and classes."""
        return cls(model, num_images=context.num_images, num_classes=context.num_classes, **options)

    def forward(self, x_BCHW: Tensor, y_B: Tensor, *index_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W), labels (B,) and places in the training set (B,)."""
        logits_BK = check_logits(self.model(x_BCHW), y_B)
        place_B = check_places(index_B, y_B, len(self.past_NK))
        if self.training:
            self.epochs.check_begun()
        target_BK = progressive_target(self.past_NK[place_B], y_B, self.share)
        loss = F.cross_entropy(logits_BK.to(target_BK.dtype), target_BK)
        if self.training and torch.is_grad_enabled():
            self._remember(logits_BK, place_B)
        return {"loss": loss, "output": logits_BK}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; InputError if the checkpoint is of other images or classes."""
        check_rows(state_dict, prefix + "past_NK", self.past_NK, "num_images num_classes")
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def _remember(self, logits_BK: Tensor, place_B: Tensor) -> None:
        self.past_NK[gathered(place_B)] = gathered(
            logits_BK.softmax(dim=1, dtype=self.past_NK.dtype)
        )
