"""Zipf's label smoothing.

Source: Liang et al. 2022, "Efficient One Pass Self-distillation with Zipf's Label Smoothing", and
its authors' code.

Shape suffixes: B batch, C channels, F features, H and W space, K classes, N = H W places.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import cam, capture
from selfexplain.explanations.hooks import Captured
from selfexplain.explanations.maps import CheckedLayers
from selfexplain.objectives.options import ZipfOptions
from selfexplain.objectives.shared.base import (
    Objective,
    Range,
    Tunable,
    check_logits,
    non_target_loss,
    true_mask,
)


def dense_votes(scores_BKN: Tensor) -> Tensor:
    """For how many places each class has the highest score: counts (B, K)."""
    winner_BN = scores_BKN.argmax(dim=1)
    ones_BN = torch.ones_like(winner_BN, dtype=scores_BKN.dtype)
    return torch.zeros_like(scores_BKN[:, :, 0]).scatter_add_(1, winner_BN, ones_BN)


def zipf_of_votes(votes_BK: Tensor, y_B: Tensor, exponent: float = 1.0) -> Tensor:
    """q_c proportional to rank_c^-exponent for c != y, with rank_c = 1 + #{c': votes_c' > votes_c}.

    The ranks count the true class, which as a rule has the first, and classes with equal votes
    share the better rank: so does the authors' code.
    """
    ascending_BK = votes_BK.sort(dim=1).values
    not_above_BK = torch.searchsorted(ascending_BK, votes_BK.contiguous(), right=True)
    rank_BK = 1 + votes_BK.shape[1] - not_above_BK
    mass_BK = rank_BK.to(votes_BK.dtype).pow(-exponent).masked_fill(true_mask(votes_BK, y_B), 0.0)
    return mass_BK / mass_BK.sum(dim=1, keepdim=True)


class ZipfLabelSmoothing(Objective):
    """L = CE(softmax(z), y) + w KL(q || p over c != y, renormalised).

    Every place of the feature map that is pooled into the linear head votes, through that head, for
    one class; q follows Zipf's law over the ranks of the votes. One forward pass serves both.

    Args:
        model: maps images (B, C, H, W) to logits (B, K), by a linear head on averaged features. It
            is not changed: hooks live only while a forward pass runs.
        weight: w; 0.1 as published for CIFAR-100.
        exponent: of Zipf's law; 1 as published, 0 is uniform.

    Raises:
        InputError: the weight or the exponent is negative or not finite; at a call, if the model
            has no pooled linear head, or two classes only.

    Example:
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ... )
        >>> out = ZipfLabelSmoothing(model)(torch.randn(2, 1, 8, 8), torch.tensor([0, 2]))
        >>> out["loss"].backward()
    """

    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"weight": Range(0.03, 1.0, log=True)}

    def __init__(
        self,
        model: nn.Module,
        weight: float = ZipfOptions.weight,
        exponent: float = ZipfOptions.exponent,
    ) -> None:
        ZipfOptions.check(weight=weight, exponent=exponent)
        super().__init__(model)
        self.weight = weight
        self.exponent = exponent
        self._layers = CheckedLayers()

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,); terms cross_entropy and zipf."""
        for _ in range(2):  # again, if the pooled feature map is another one now
            with capture(self.model, self._layers.find(self.model, x_BCHW, "cam")) as captured:
                logits_BK = check_logits(self.model(x_BCHW), y_B)
            if self._layers.hold(self.model, x_BCHW, captured, logits_BK, "cam"):
                break
        if logits_BK.shape[1] == 2:
            raise InputError(
                "with two classes there is one non-true class and no rank to teach; "
                "pass another objective"
            )
        z_BK = logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))
        target_BK = zipf_of_votes(_votes(captured).to(z_BK.dtype), y_B, self.exponent)
        zipf = non_target_loss(z_BK, target_BK, y_B)
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        return {
            "loss": cross_entropy + self.weight * zipf,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "zipf": zipf.detach(),
        }


@torch.no_grad()
def _votes(captured: Captured) -> Tensor:
    """The places' votes: the head, bias and all, at each of them."""
    features_BFHW = captured.features_BFHW.float()
    with torch.autocast(features_BFHW.device.type, enabled=False):  # in half precision many tie
        scores_BKN = cam(features_BFHW, captured.weight_KF.float()).flatten(2)
    if captured.bias_K is not None:
        scores_BKN = scores_BKN + captured.bias_K.float().unsqueeze(1)
    return dense_votes(scores_BKN)
