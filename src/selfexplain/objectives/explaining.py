"""What objectives share whose loss is made of the gradients of a forward pass.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

import torch
from torch import Tensor, nn

from selfexplain.explanations import MapKind, capture, find_explained_layer
from selfexplain.explanations.capturing import Seen
from selfexplain.explanations.explained_layer import ExplainedLayer
from selfexplain.objectives.base import Objective, check_logits


class ExplainingObjective(Objective):
    """An objective that differentiates its own forward pass to explain it.

    Such a pass needs a graph even where the caller, in validation, wants none: `forward` makes one
    and hands out detached tensors there. Subclasses implement `explained_loss`.

    Example:
        >>> from selfexplain.objectives import SaliencyGuided
        >>> issubclass(SaliencyGuided, ExplainingObjective)
        True
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._layers: dict[tuple[MapKind, str | None], ExplainedLayer] = {}

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,), and its terms."""
        wanted = torch.is_grad_enabled()
        with torch.inference_mode(mode=False), torch.enable_grad():
            out = self.explained_loss(_usable(x_BCHW), _usable(y_B))
        if not wanted:
            return {name: value.detach() for name, value in out.items()}
        if self.training:
            self.after_step()
        return out

    def explained_loss(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """The same with gradients enabled."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Move on what lasts; called after each training step, and only there."""

    def find_layer(self, x_BCHW: Tensor, kind: MapKind, layer: str | None = None) -> ExplainedLayer:
        """The explained layer, looked for at the first call; InputError if there is none."""
        if (kind, layer) not in self._layers:
            found = find_explained_layer(self.model, x_BCHW, kind=kind, layer=layer)
            self._layers[kind, layer] = found
        return self._layers[kind, layer]

    def captured(self, layer: ExplainedLayer, x_BCHW: Tensor, y_B: Tensor) -> tuple[Seen, Tensor]:
        """One forward pass: what was seen at the layer, and logits (B, K)."""
        with capture(self.model, layer) as seen:
            return seen, check_logits(self.model(x_BCHW), y_B)


def _usable(tensor: Tensor) -> Tensor:
    """Tensors made in inference mode cannot be kept for a backward pass; copies can."""
    return tensor.clone() if tensor.is_inference() else tensor
