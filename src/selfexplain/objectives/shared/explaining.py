"""What objectives share whose loss is made of the gradients of a forward pass.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from selfexplain.explanations import MapKind, capture
from selfexplain.explanations.hooks import Captured
from selfexplain.explanations.layout import ExplainedLayer
from selfexplain.explanations.maps import CheckedLayers
from selfexplain.objectives.shared.base import Counts, Objective, check_logits


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
        self.layers = CheckedLayers()

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
        return self.layers.find(self.model, x_BCHW, kind, layer)

    def captured(
        self, x_BCHW: Tensor, y_B: Tensor, kind: MapKind, layer: str | None = None
    ) -> tuple[Captured, Tensor]:
        """One forward pass: what was seen at the layer, and logits (B, K).

        A second pass, if the first shows that the model's explained layer is another one now.
        """
        for _ in range(2):
            with capture(self.model, self.find_layer(x_BCHW, kind, layer)) as captured:
                logits_BK = check_logits(self.model(x_BCHW), y_B)
            if self.layers.hold(self.model, x_BCHW, captured, logits_BK, kind, layer):
                break
        return captured, logits_BK


def _usable(tensor: Tensor) -> Tensor:
    """Tensors made in inference mode cannot be kept for a backward pass; copies can."""
    return tensor.clone() if tensor.is_inference() else tensor


# An objective's own random numbers, the same again when a run is continued.


class StepRandom(nn.Module):
    """A generator for each training step, made from a seed and the count of steps.

    Both are kept in the extra state, so that a resumed run draws what the unbroken one would have
    drawn. The seed is drawn from the global generator when the objective is built; afterwards that
    one is left alone.

    Example:
        >>> random = StepRandom()
        >>> first = torch.rand(3, generator=random.generator("cpu"))
        >>> bool((torch.rand(3, generator=random.generator("cpu")) == first).all())
        True
        >>> random.advance()
        >>> bool((torch.rand(3, generator=random.generator("cpu")) == first).all())
        False
    """

    def __init__(self) -> None:
        super().__init__()
        # On the CPU, whose generator it is, wherever modules are made by default.
        seed = int(torch.randint(2**62, (), device="cpu"))
        self.counts = Counts(seed=seed, step=0)

    def generator(self, device: torch.device | str) -> torch.Generator:
        """The generator of this step; a new one, at its start, at each call."""
        return torch.Generator(device).manual_seed(self.counts["seed"] + self.counts["step"])

    def advance(self) -> None:
        """Go to the next step."""
        self.counts["step"] += 1

    def get_extra_state(self) -> Tensor:
        """What a checkpoint needs: seed and step, (2,)."""
        return self.counts.tensor_N

    def set_extra_state(self, state: Tensor | Mapping[str, int]) -> None:
        """Restore what `get_extra_state` returned."""
        self.counts.load(state)
