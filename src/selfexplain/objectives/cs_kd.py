"""Class-wise self-knowledge distillation (CS-KD).

Source: Yun et al. 2020, "Regularizing Class-wise Predictions via Self-knowledge Distillation", and
its authors' code. Where our pairs come from is our own choice; docs/methods/cs_kd.md says why.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.distributed import gathered
from selfexplain.errors import InputError
from selfexplain.explanations.hooks import preserved
from selfexplain.objectives.options import CSKDOptions
from selfexplain.objectives.shared.base import (
    Objective,
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
    softened_kl,
)
from selfexplain.objectives.shared.memory import TensorMemory, bytes_of


def previous_of_class(y_B: Tensor) -> Tensor:
    """Place in the batch of the last image of the same class before each; -1 for none. (B,)."""
    place_B = torch.arange(len(y_B), device=y_B.device)
    earlier_BB = (y_B.unsqueeze(1) == y_B) & (place_B.unsqueeze(1) > place_B)
    return torch.where(earlier_BB, place_B, -1).amax(dim=1)


def last_of_class(y_B: Tensor, classes: int) -> Tensor:
    """Place in the batch of each class's last image; -1 for none. (K,)."""
    place_B = torch.arange(len(y_B), device=y_B.device)
    is_class_KB = torch.arange(classes, device=y_B.device).unsqueeze(1) == y_B
    return torch.where(is_class_KB, place_B, -1).amax(dim=1)


class CSKD(Objective):
    """L = CE(softmax(z), y) + w T^2 KL(softmax(z' / T) || softmax(z / T)), z' detached.

    z' are the logits of another image of the same class: the one that came before it in training,
    in this batch or an earlier one. It takes a second forward pass without a graph, which leaves
    the model's running statistics alone. The term is zero for the first image of a class.

    The objective remembers the last image of each class: of several processes, that of the global
    batch.

    Args:
        model: maps images (B, C, H, W) to logits (B, K).
        weight: w, of the term; 1 as published for CIFAR-100.
        temperature: T; 4 as published.
        memory_bytes: room in checkpoints for an image of each class; 4 MiB by default.

    Raises:
        InputError: the weight is negative, or the temperature below 0.01; at a call, if the images
            have another size than those before.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> out = CSKD(model)(torch.randn(2, 1, 2, 2), torch.tensor([2, 2]))
        >>> out["loss"].backward()
    """

    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "weight": Range(0.3, 3.0, log=True),
        "temperature": Range(1.0, 8.0, log=True),
    }

    def __init__(
        self,
        model: nn.Module,
        weight: float = CSKDOptions.weight,
        temperature: float = CSKDOptions.temperature,
        memory_bytes: int | None = None,
    ) -> None:
        CSKDOptions.check(weight=weight, temperature=temperature)
        super().__init__(model)
        self.weight = weight
        self.temperature = temperature
        self.memory = TensorMemory("image_KCHW", "seen_K", room=memory_bytes)

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective with room for an image of each of the run's classes."""
        images = torch.empty(context.num_classes, *context.image_shape, device="meta")
        seen = torch.empty(context.num_classes, dtype=torch.bool, device="meta")
        return cls(model, memory_bytes=bytes_of((images, seen)), **options)

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,); terms cross_entropy and class_wise."""
        logits_BK = check_logits(self.model(x_BCHW), y_B)
        partner_BCHW, has_partner_B = self._partners(x_BCHW, y_B)
        with preserved(self.model, x_BCHW), torch.no_grad():
            teacher_BK = self.model(partner_BCHW)
        class_wise_B = softened_kl(logits_BK, teacher_BK, self.temperature)
        class_wise = torch.where(has_partner_B, class_wise_B, 0.0).mean()
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        if self.training and torch.is_grad_enabled():
            self._remember(x_BCHW, y_B, logits_BK.shape[1])
        return {
            "loss": cross_entropy + self.weight * class_wise,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "class_wise": class_wise.detach(),
        }

    def _partners(self, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Each image's partner, and whether it has one; where not, the image itself."""
        previous_B = previous_of_class(y_B)
        in_batch_B = previous_B >= 0
        own_B = torch.arange(len(y_B), device=y_B.device)
        earlier_BCHW = x_BCHW[torch.where(in_batch_B, previous_B, own_B)]
        if self.memory.empty:
            return earlier_BCHW, in_batch_B
        # Indexing copies the rows it takes; a copy of all classes' images would cost more.
        image_KCHW = self.memory.view("image_KCHW")
        if image_KCHW.shape[1:] != x_BCHW.shape[1:]:
            raise InputError(
                f"the images have shape {tuple(x_BCHW.shape[1:])}, and those before, which are "
                f"remembered, had {tuple(image_KCHW.shape[1:])}; pass images of one size"
            )
        from_memory_B = self.memory.view("seen_K")[y_B] & ~in_batch_B
        partner_BCHW = torch.where(from_memory_B.view(-1, 1, 1, 1), image_KCHW[y_B], earlier_BCHW)
        return partner_BCHW, in_batch_B | from_memory_B

    @torch.no_grad()
    def _remember(self, x_BCHW: Tensor, y_B: Tensor, classes: int) -> None:
        """Keep the last image of each class; a class that is not in the batch keeps its old one."""
        x_BCHW = gathered(x_BCHW)
        last_K = last_of_class(gathered(y_B), classes)
        in_batch_K = last_K >= 0
        image_KCHW = torch.where(in_batch_K.view(-1, 1, 1, 1), x_BCHW[last_K.clamp_min(0)], 0.0)
        if not self.memory.empty:
            old_KCHW = self.memory.view("image_KCHW")
            image_KCHW = torch.where(in_batch_K.view(-1, 1, 1, 1), image_KCHW, old_KCHW)
            in_batch_K = in_batch_K | self.memory.view("seen_K")
        self.memory.keep(image_KCHW=image_KCHW, seen_K=in_batch_K)
