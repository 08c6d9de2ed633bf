"""A second head in the middle of a network, added to any objective (Szegedy et al. 2015)."""

import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations.hooks import ForwardHook, forward_hooks
from selfexplain.limits import check_in_range
from selfexplain.objectives.mixing import Mixing
from selfexplain.objectives.shared.base import Objective, Wrapper, check_logits


class WithAuxiliaryHead(Wrapper):
    """L = L(objective) + w CE(softmax(z'), y), with the logits z' of an auxiliary head.

    The head is part of the model and runs in its forward pass in training alone, as that of a
    network of `build_network` does; its logits are read by a hook that lives while a forward pass
    runs. In evaluation the loss is the objective's own.

    Args:
        objective: any but one that mixes images, around a model with the head; mixing goes
            around both, so that the head learns from the same labels.
        head: name of the head in the model; in training it returns logits (B, K) once a forward
            pass.
        weight: w, of the head's cross-entropy; 0.4 as published for DARTS.

    Raises:
        InputError: the model has no such module, the weight is negative, or the objective mixes
            images; at a call, if the head was not run in training, or returned no logits.

    Example:
        >>> import torch
        >>> from selfexplain.objectives import Standard
        >>> from selfexplain.spaces import build_network, random_genotype
        >>> model = build_network(
        ...     random_genotype("darts"), num_classes=3, in_channels=1, image_size=16,
        ...     channels=4, cells=1, auxiliary=True,
        ... )
        >>> objective = WithAuxiliaryHead(Standard(model))
        >>> out = objective(torch.zeros(2, 1, 16, 16), torch.tensor([0, 2]))
        >>> sorted(out)
        ['auxiliary', 'loss', 'output']
    """

    def __init__(self, objective: Objective, head: str = "auxiliary", weight: float = 0.4) -> None:
        check_in_range("weight", weight, 0.0)
        if isinstance(objective, Mixing):
            name = type(objective).__name__
            raise InputError(
                f"{name} would mix images but not the auxiliary head's labels; "
                f"pass {name}(WithAuxiliaryHead(...), ...)"
            )
        super().__init__(objective)
        self.head = head
        self.weight = weight
        self.takes_soft_labels = objective.takes_soft_labels
        self.wants_indices = objective.wants_indices
        self._head_module()

    def forward(self, x_BCHW: Tensor, y_B: Tensor, *index_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,); the objective's terms, and auxiliary."""
        head = self._head_module()
        outputs: list[object] = []
        hook = ForwardHook(
            (self.head, "output"), lambda _module, _inputs, output: outputs.append(output)
        )
        with forward_hooks(self.model, [hook]):
            out: dict[str, Tensor] = self.objective(x_BCHW, y_B, *index_B)
        if not head.training:
            return out
        if len(outputs) != 1:
            raise InputError(
                f"the head {self.head!r} ran {len(outputs)} times in a training step; pass a model "
                "that runs it once in each forward pass, and an objective of one pass"
            )
        auxiliary = F.cross_entropy(check_logits(outputs[0], y_B, soft=True), y_B)
        return {
            **out,
            "loss": out["loss"] + self.weight * auxiliary,
            "auxiliary": auxiliary.detach(),
        }

    def _head_module(self) -> nn.Module:
        """The head; by its name, so that a copy of this objective finds the head of its model."""
        try:
            return self.model.get_submodule(self.head)
        except AttributeError as error:
            raise InputError(
                f"the model has no module {self.head!r}; pass the name of its auxiliary head, or "
                "build it with one"
            ) from error
