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
from selfexplain.explanations.layout import ExplainedLayer
from selfexplain.objectives.options import AttentionSeparabilityOptions
from selfexplain.objectives.shared.base import Range, Tunable, check_logits
from selfexplain.objectives.shared.explaining import ExplainingObjective

# How two classes' attention meets, and how two layers' does: the terms of ICASC.
#
# Attention A is a class map without what speaks against the class: never negative.


EPSILON = 1e-8


def most_confusing(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """The class with the highest logit other than the true one: (B,)."""
    others_BK = logits_BK.detach().scatter(1, y_B.unsqueeze(1), float("-inf"))
    return others_BK.argmax(dim=1)


def soft_mask(attention_BHW: Tensor, sigma: float, omega: float) -> Tensor:
    """Where attention is high: sigmoid(omega (A / max A - sigma)), (B, H, W), in [0, 1].

    sigma is the share of the image's highest attention at which the mask is 1/2.
    """
    peak_B11 = attention_BHW.amax((1, 2), keepdim=True)
    return torch.sigmoid(omega * (attention_BHW / (peak_B11 + EPSILON) - sigma))


def overlap(true_BHW: Tensor, confusing_BHW: Tensor, mask_BHW: Tensor) -> Tensor:
    """L_AS: how far two classes attend to the same places within the mask.

    2 sum(min(A_true, A_confusing) mask) / sum(A_true + A_confusing), between 0 and 1. The sums run
    over the batch: image by image, one whose attention all but vanishes would have a gradient
    without bound, and one such step ruins a training.
    """
    common = (torch.minimum(true_BHW, confusing_BHW) * mask_BHW).sum()
    return 2 * common / ((true_BHW + confusing_BHW).sum() + EPSILON)


def outside(attention_BHW: Tensor, mask_BHW: Tensor, theta: float) -> Tensor:
    """L_AC: theta - sum(A mask) / sum(A), summed over B; low if attention is in the mask."""
    return theta - (attention_BHW * mask_BHW).sum() / (attention_BHW.sum() + EPSILON)


class AttentionSeparability(ExplainingObjective):
    """L = CE(softmax(z), y) + a (L_AS(last layer) + L_AS(inner layer)) + c L_AC(inner layer).

    Attention is the rectified Grad-CAM of a class. The true class should attend elsewhere than the
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

    second_derivatives = True
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "separability": Range(0.03, 3.0, log=True),
        "consistency": Range(0.03, 3.0, log=True),
        "omega": Range(5.0, 100.0, log=True),
    }

    def __init__(
        self,
        model: nn.Module,
        separability: float = AttentionSeparabilityOptions.separability,
        consistency: float = AttentionSeparabilityOptions.consistency,
        sigma: float = AttentionSeparabilityOptions.sigma,
        omega: float = AttentionSeparabilityOptions.omega,
        theta: float = AttentionSeparabilityOptions.theta,
        layer: str | None = AttentionSeparabilityOptions.layer,
        inner_layer: str | None = AttentionSeparabilityOptions.inner_layer,
    ) -> None:
        AttentionSeparabilityOptions.check(
            separability=separability,
            consistency=consistency,
            sigma=sigma,
            omega=omega,
            theta=theta,
            layer=layer,
            inner_layer=inner_layer,
        )
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
            maps_of_own_classes(captured, logits_BK, classes_B2, kind="grad_cam", create_graph=True)
            for captured in (seen_last, seen_inner)
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
