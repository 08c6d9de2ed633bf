"""Self-distillation from the last mini-batch (DLB).

Source: Shen et al. 2022, "Self-Distillation from the Last Mini-Batch for Consistency
Regularization", and its authors' code.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.distributed import gathered, own_part
from selfexplain.objectives.options import DLBOptions
from selfexplain.objectives.shared.base import (
    Objective,
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
    softened_kl,
)
from selfexplain.objectives.shared.memory import TensorMemory, bytes_of


class DLB(Objective):
    """L = CE over this batch and the last + alpha T^2 KL(softmax(t / T) || softmax(z' / T)).

    The last step's images go through the model again, after this step's: z' are their logits now,
    t those of the step before. The first step, and evaluation, is the cross-entropy of the batch.

    The objective remembers one batch: of several processes the global one, of which each takes
    back its own part.

    Args:
        model: maps images (B, C, H, W) to logits (B, K).
        alpha: weight of the agreement with the step before; 1 as published.
        temperature: T; 3 as published.
        memory_bytes: room in checkpoints for the batch, its labels and logits; 4 MiB by default.

    Raises:
        InputError: alpha is negative, or the temperature below 0.01.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> objective = DLB(model)
        >>> for _ in range(2):
        ...     out = objective(torch.randn(2, 1, 2, 2), torch.tensor([0, 2]))
        >>> out["loss"].backward()
    """

    takes_soft_labels = True
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "alpha": Range(0.3, 3.0, log=True),
        "temperature": Range(1.0, 8.0, log=True),
    }

    def __init__(
        self,
        model: nn.Module,
        alpha: float = DLBOptions.alpha,
        temperature: float = DLBOptions.temperature,
        memory_bytes: int | None = None,
    ) -> None:
        DLBOptions.check(alpha=alpha, temperature=temperature)
        super().__init__(model)
        self.alpha = alpha
        self.temperature = temperature
        self.last = TensorMemory("x_BCHW", "label_BK", "logits_BK", room=memory_bytes)

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective with room for a batch of the run, if its size is known."""
        room = None
        if context.batch_size is not None:
            image = torch.empty(context.batch_size, *context.image_shape, device="meta")
            scores = torch.empty(context.batch_size, context.num_classes, device="meta")
            room = bytes_of((image, scores, scores))
        return cls(model, memory_bytes=room, **options)

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images and labels (B,) or (B, K); terms cross_entropy and consistency."""
        logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        label_BK = y_B if y_B.ndim == 2 else F.one_hot(y_B, logits_BK.shape[1])
        label_BK = label_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))
        cross_entropy = F.cross_entropy(logits_BK.to(label_BK.dtype), label_BK)
        consistency = torch.zeros_like(cross_entropy)
        if self.training and not self.last.empty:
            again_BK = self.model(own_part(self.last["x_BCHW"]))
            cross_entropy = F.cross_entropy(
                torch.cat((logits_BK, again_BK)).to(label_BK.dtype),
                torch.cat((label_BK, own_part(self.last["label_BK"]))),
            )
            past_BK = own_part(self.last["logits_BK"])
            consistency = softened_kl(again_BK, past_BK, self.temperature).mean()
        if self.training and torch.is_grad_enabled():
            self._remember(x_BCHW, label_BK, logits_BK)
        return {
            "loss": cross_entropy + self.alpha * consistency,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "consistency": consistency.detach(),
        }

    @torch.no_grad()
    def _remember(self, x_BCHW: Tensor, label_BK: Tensor, logits_BK: Tensor) -> None:
        self.last.keep(
            x_BCHW=gathered(x_BCHW), label_BK=gathered(label_BK), logits_BK=gathered(logits_BK)
        )
