"""Contrastive Grad-CAM consistency (CGC).

Source: Pillai, Koohpayegani, Ouligian, Fong and Pirsiavash 2022, "Consistent Explanations by
Contrastive Learning". Read: the abstract, and the authors' published code; what is ours is marked
on the page docs/methods/cgc.md.

Shape suffixes: B batch, C channels, H and W space, K classes, P positions, N output positions along
one side.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.explanations import MapKind, maps_of_own_classes
from selfexplain.objectives.options import ContrastiveGradCamOptions
from selfexplain.objectives.shared.base import Range, Tunable
from selfexplain.objectives.shared.explaining import ExplainingObjective, StepRandom

# Another view of an image: a random part of it, resized, perhaps mirrored; for maps as for
# images.


def bilinear_rows(low_B: Tensor, size_B: Tensor, count: int, outputs: int) -> Tensor:
    """Weights of bilinear interpolation along one side: (B, outputs, count), rows that sum to 1.

    Output i lies in the middle of the i-th of `outputs` equal parts of [low, low + size], shares of
    the side; what lies outside the outermost pixels' centres takes their value.
    """
    middle_N = (torch.arange(outputs, device=low_B.device, dtype=low_B.dtype) + 0.5) / outputs
    at_BN = (low_B[:, None] + size_B[:, None] * middle_N) * count - 0.5
    pixels = torch.arange(count, device=low_B.device, dtype=low_B.dtype)
    distance_BNP = (at_BN.clamp(0, count - 1).unsqueeze(2) - pixels).abs()
    return (1 - distance_BNP).clamp_min(0)


@dataclass(frozen=True, slots=True)
class View:
    """A box in each image, as shares of its sides, and whether it is mirrored left to right."""

    top_B: Tensor
    left_B: Tensor
    height_B: Tensor
    width_B: Tensor
    mirrored_B: Tensor

    def of(self, images_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
        """The boxes of images or maps (B, C, H, W), resized to (B, C, *size); differentiable.

        Interpolated bilinearly, without smoothing first, in no less than float32.
        """
        height, width = images_BCHW.shape[2:]
        left_B = torch.where(self.mirrored_B, self.left_B + self.width_B, self.left_B)
        width_B = torch.where(self.mirrored_B, -self.width_B, self.width_B)
        with torch.autocast(images_BCHW.device.type, enabled=False):
            rows_BNH = bilinear_rows(self.top_B, self.height_B, height, size[0])
            columns_BNW = bilinear_rows(left_B, width_B, width, size[1])
            wide = torch.promote_types(images_BCHW.dtype, rows_BNH.dtype)
            columns_B1WN = columns_BNW.to(wide).transpose(1, 2).unsqueeze(1)
            part = rows_BNH.to(wide).unsqueeze(1) @ images_BCHW.to(wide) @ columns_B1WN
        return part.to(images_BCHW.dtype)


def random_view(batch: int, generator: torch.Generator, min_area: float, mirror: bool) -> View:
    """A view with a random box for each image, half of them mirrored if `mirror`.

    The area is uniform in [min_area, 1] of the image; the ratio of width to height is between 3/4
    and 4/3, uniform in its logarithm; a side longer than the image's is cut to it; the place is
    uniform. The generator is on the device of the images.
    """
    uniform = torch.rand(5, batch, generator=generator, device=generator.device)
    area_B = min_area + (1 - min_area) * uniform[0]
    ratio_B = torch.exp((2 * uniform[1] - 1) * math.log(4 / 3))
    width_B = (area_B * ratio_B).sqrt().clamp_max(1)
    height_B = (area_B / ratio_B).sqrt().clamp_max(1)
    top_B, left_B = (1 - height_B) * uniform[2], (1 - width_B) * uniform[3]
    mirrored_B = (uniform[4] < 0.5) & mirror
    return View(top_B, left_B, height_B, width_B, mirrored_B)


def contrastive_loss(views_BP: Tensor, expected_BP: Tensor, temperature: float) -> Tensor:
    """InfoNCE of maps: each view's map should be its expected map rather than another view's.

    -log( exp(cos(v_i, e_i) / t) / (exp(cos(v_i, e_i) / t) + sum_{j != i} exp(cos(v_i, v_j) / t)) ),
    averaged over i. Maps are flattened and not negative; one without any response has the cosine 0
    with all.
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

    x' is a random part of x, resized and perhaps mirrored. The true class's map of x' should be
    that part of the true class's map of x. Two forward passes a step; each explains itself.

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

    second_derivatives = True
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "weight": Range(0.05, 2.0, log=True),
        "temperature": Range(0.05, 1.0, log=True),
        "min_area": Range(0.08, 0.8),
    }

    def __init__(
        self,
        model: nn.Module,
        weight: float = ContrastiveGradCamOptions.weight,
        temperature: float = ContrastiveGradCamOptions.temperature,
        min_area: float = ContrastiveGradCamOptions.min_area,
        mirror: bool = ContrastiveGradCamOptions.mirror,
        kind: MapKind = ContrastiveGradCamOptions.kind,
        layer: str | None = ContrastiveGradCamOptions.layer,
    ) -> None:
        ContrastiveGradCamOptions.check(
            weight=weight,
            temperature=temperature,
            min_area=min_area,
            mirror=mirror,
            kind=kind,
            layer=layer,
        )
        super().__init__(model)
        self.weight = weight
        self.temperature = temperature
        self.min_area = min_area
        self.mirror = mirror
        self.kind: MapKind = kind
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
        captured, logits_BK = self.captured(x_BCHW, y_B, self.kind, self.layer)
        maps_B1HW = maps_of_own_classes(
            captured, logits_BK, y_B.unsqueeze(1), kind=self.kind, create_graph=True
        )
        return logits_BK, maps_B1HW.relu()
