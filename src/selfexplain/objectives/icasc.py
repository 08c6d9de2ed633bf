"""Attention separability and consistency (ICASC).

Source: Wang, Wu, Karanam, Peng, Singh, Liu and Metaxas 2019, "Sharpen Focus: Learning with
Attention Separability and Consistency". Read: the abstract, and code by others that follows the
paper; what is ours is marked on the page docs/methods/icasc.md.

Shape suffixes: B batch, C channels, H and W space, K classes; 2 the true class and the one it is
most easily mistaken for.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import capture, find_earlier_layer, maps_of_own_classes
from selfexplain.explanations.explained_layer import ExplainedLayer
from selfexplain.objectives.attention import most_confusing, outside, overlap, soft_mask
from selfexplain.objectives.base import check_in_range, check_logits
from selfexplain.objectives.explaining import ExplainingObjective
from selfexplain.objectives.tunable import Range, Tunable


class AttentionSeparability(ExplainingObjective):
    """L = CE(softmax(z), y) + a (L_AS(last layer) + L_AS(inner layer)) + c L_AC(inner layer).

    Attention is the rectified Grad-CAM of a class. The true class shall attend elsewhere than the
    one it is most easily mistaken for (L_AS), and at the inner layer where it does at the last one
    (L_AC). One forward pass serves the classification and both layers' maps.

    Args:
        model: maps images (B, C, H, W) to logits (B, K), K at least 2.
        separability: a.
        consistency: c.
        sigma: share of the highest attention of the last layer at which the mask is 1/2.
        omega: steepness of the mask.
        theta: share of the inner attention that counts as consistent; a constant of the loss.
        layer: name of the last layer; None for the last with positions.
        inner_layer: name of the inner one; None for the last with more positions than `layer`.

    Raises:
        InputError: a number is out of its range; at the first call, if there are no such layers.

    Example:
        >>> from selfexplain.models import build_model
        >>> objective = AttentionSeparability(
        ...     build_model("small_cnn", num_classes=5, in_channels=1)
        ... )
        >>> out = objective(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> out["loss"].backward()
    """

    recordable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "separability": Range(0.03, 3.0, log=True),
        "consistency": Range(0.03, 3.0, log=True),
        "omega": Range(5.0, 100.0, log=True),
    }

    def __init__(
        self,
        model: nn.Module,
        separability: float = 1.0,
        consistency: float = 1.0,
        sigma: float = 0.55,
        omega: float = 100.0,
        theta: float = 0.8,
        layer: str | None = None,
        inner_layer: str | None = None,
    ) -> None:
        for name, value in {"separability": separability, "consistency": consistency}.items():
            check_in_range(name, value, 0.0, float("inf"))
        check_in_range("sigma", sigma, 0.0, 1.0)
        check_in_range("omega", omega, 0.0, float("inf"))
        check_in_range("theta", theta, 0.0, 1.0)
        super().__init__(model)
        self.separability = separability
        self.consistency = consistency
        self.sigma, self.omega, self.theta = sigma, omega, theta
        self.layer, self.inner_layer = layer, inner_layer
        self._inner: ExplainedLayer | None = None

    def explained_loss(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images and labels (B,); terms cross_entropy, separability and consistency."""
        logits_BK, last_B2HW, inner_B2HW = self._attention(x_BCHW, y_B)
        mask_BHW = soft_mask(last_B2HW[:, 0], self.sigma, self.omega)
        inner_mask_BHW = F.interpolate(
            mask_BHW.unsqueeze(1), inner_B2HW.shape[2:], mode="bilinear", align_corners=False
        ).squeeze(1)
        separability = overlap(last_B2HW[:, 0], last_B2HW[:, 1], mask_BHW) + overlap(
            inner_B2HW[:, 0], inner_B2HW[:, 1], inner_mask_BHW
        )
        consistency = outside(inner_B2HW[:, 0], inner_mask_BHW, self.theta)
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        extra = self.separability * separability + self.consistency * consistency
        return {
            "loss": cross_entropy + extra,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "separability": separability.detach(),
            "consistency": consistency.detach(),
        }

    def _attention(self, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, and the attention of two classes at the last and at the inner layer."""
        for _ in range(2):  # again, if the last layer is another one now
            last, inner = self._both_layers(x_BCHW)
            with capture(self.model, inner) as seen_inner, capture(self.model, last) as seen_last:
                logits_BK = check_logits(self.model(x_BCHW), y_B)
            if self.layers.hold(self.model, x_BCHW, seen_last, logits_BK, "grad_cam", self.layer):
                break
            self._inner = None
        if logits_BK.shape[1] < 2:
            raise InputError("the model has one class; pass a model of at least two for icasc")
        classes_B2 = torch.stack((y_B, most_confusing(logits_BK, y_B)), dim=1)
        last_B2HW, inner_B2HW = (
            maps_of_own_classes(seen, logits_BK, classes_B2, kind="grad_cam", create_graph=True)
            for seen in (seen_last, seen_inner)
        )
        wide = torch.promote_types(logits_BK.dtype, torch.float32)
        return logits_BK, last_B2HW.to(wide).relu(), inner_B2HW.to(wide).relu()

    def _both_layers(self, x_BCHW: Tensor) -> tuple[ExplainedLayer, ExplainedLayer]:
        """The last layer and the inner one."""
        last = self.find_layer(x_BCHW, "grad_cam", self.layer)
        if self.inner_layer is not None:
            return last, self.find_layer(x_BCHW, "grad_cam", self.inner_layer)
        if self._inner is None:
            self._inner = find_earlier_layer(self.model, x_BCHW, last)
        return last, self._inner
