"""Contrastive Grad-CAM consistency (CGC).

Source: Pillai, Koohpayegani, Ouligian, Fong and Pirsiavash 2022, "Consistent Explanations by
Contrastive Learning". Read: the abstract, and the authors' published code; what is ours is marked
on the page docs/methods/cgc.md.

Shape suffixes: B batch, C channels, H and W space, K classes, P positions.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.explanations import MapKind, maps_of_own_classes
from selfexplain.explanations.kinds import check_kind
from selfexplain.objectives.base import check_in_range
from selfexplain.objectives.explaining import ExplainingObjective
from selfexplain.objectives.random_view import random_view
from selfexplain.objectives.step_random import StepRandom
from selfexplain.objectives.tunable import Range, Tunable


def contrastive_loss(views_BP: Tensor, expected_BP: Tensor, temperature: float) -> Tensor:
    """InfoNCE of maps: each view's map shall be its expected map rather than another view's map.

    -log( exp(cos(v_i, e_i) / t) / (exp(cos(v_i, e_i) / t) + sum_{j != i} exp(cos(v_i, v_j) / t)) ),
    averaged over i. A map without any response has the cosine 0 with all.

    Args:
        views_BP: maps of the views, none negative, flattened.
        expected_BP: the same parts of the maps of the whole images.
        temperature: t.

    Example:
        >>> maps = torch.eye(2)
        >>> round(contrastive_loss(maps, maps, temperature=0.5).item(), 4)  # log(1 + e^-2)
        0.1269
    """
    with torch.autocast(views_BP.device.type, enabled=False):
        wide = torch.promote_types(views_BP.dtype, torch.float32)
        views_BP, expected_BP = (F.normalize(v.to(wide), dim=1) for v in (views_BP, expected_BP))
        same_BB = torch.eye(len(views_BP), dtype=torch.bool, device=views_BP.device)
        positive_B1 = (views_BP * expected_BP).sum(dim=1, keepdim=True)
        cosine_BB = torch.where(same_BB, positive_B1, views_BP @ views_BP.T)
        own_B = torch.arange(len(views_BP), device=views_BP.device)
        return F.cross_entropy(cosine_BB / temperature, own_B)


class ContrastiveGradCam(ExplainingObjective):
    """L = (CE(softmax(z), y) + CE(softmax(z'), y)) / 2 + w InfoNCE(maps of x', part of maps of x).

    x' is a random part of x, resized and perhaps mirrored. The true class's map of x' shall be that
    part of the true class's map of x. Two forward passes a step; each explains itself.

    Args:
        model: maps images (B, C, H, W) to logits (B, K).
        weight: w; 0.5 as published for ImageNet.
        temperature: t of the cosines; 0.5 as published for ImageNet.
        min_area: least area of the part, as a share of the image; 0.08 as published for ImageNet.
        mirror: mirror half of the parts; no, where images must not be mirrored, such as digits.
        kind: of the maps.
        layer: name of the layer to explain; None for the last with positions.

    Raises:
        InputError: a number is out of its range; at the first call, if the kind of map cannot be
            made, or not of this layer.

    Example:
        >>> from selfexplain.models import build_model
        >>> objective = ContrastiveGradCam(build_model("small_cnn", num_classes=5, in_channels=1))
        >>> out = objective(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> out["loss"].backward()
    """

    tunable: ClassVar[Mapping[str, Tunable]] = {
        "weight": Range(0.05, 2.0, log=True),
        "temperature": Range(0.05, 1.0, log=True),
        "min_area": Range(0.08, 0.8),
    }

    def __init__(
        self,
        model: nn.Module,
        weight: float = 0.5,
        temperature: float = 0.5,
        min_area: float = 0.08,
        mirror: bool = True,
        kind: MapKind = "grad_cam",
        layer: str | None = None,
    ) -> None:
        check_in_range("weight", weight, 0.0, float("inf"))
        check_in_range("temperature", temperature, 1e-6, float("inf"))
        check_in_range("min_area", min_area, 0.01, 1.0)
        super().__init__(model)
        self.weight = weight
        self.temperature = temperature
        self.min_area = min_area
        self.mirror = mirror
        self.kind: MapKind = check_kind(kind)
        self.layer = layer
        self.random = StepRandom()

    def explained_loss(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,); terms cross_entropy and contrast."""
        generator = self.random.generator(x_BCHW.device)
        view = random_view(len(x_BCHW), generator, self.min_area, self.mirror)
        logits_BK, maps_B1HW = self._explained(x_BCHW, y_B)
        viewed_BCHW = view.of(x_BCHW, (x_BCHW.shape[2], x_BCHW.shape[3]))
        view_logits_BK, view_maps_B1HW = self._explained(viewed_BCHW, y_B)
        expected_B1HW = view.of(maps_B1HW, (maps_B1HW.shape[2], maps_B1HW.shape[3]))
        cross_entropy = F.cross_entropy(torch.cat((logits_BK, view_logits_BK)), y_B.repeat(2))
        contrast = contrastive_loss(
            view_maps_B1HW.flatten(1), expected_B1HW.flatten(1), self.temperature
        )
        return {
            "loss": cross_entropy + self.weight * contrast,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "contrast": contrast.detach(),
        }

    def after_step(self) -> None:
        """Draw other parts in the next step."""
        self.random.advance()

    def _explained(self, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and what speaks for the true class and where (B, 1, H, W), from one forward."""
        seen, logits_BK = self.captured(x_BCHW, y_B, self.kind, self.layer)
        maps_B1HW = maps_of_own_classes(
            seen, logits_BK, y_B.unsqueeze(1), kind=self.kind, create_graph=True
        )
        return logits_BK, maps_B1HW.relu()
