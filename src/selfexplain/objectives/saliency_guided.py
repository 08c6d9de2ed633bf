"""Saliency-guided training.

Source: Ismail, Corrada Bravo and Feizi 2021, "Improving Deep Learning Interpretability by Saliency
Guided Training". Read: the abstract, and the authors' published code; what is ours is marked on the
page docs/methods/saliency_guided.md.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.explanations import maps_of_own_classes
from selfexplain.objectives.options import SaliencyGuidedOptions
from selfexplain.objectives.shared.base import Range, Tunable
from selfexplain.objectives.shared.explaining import ExplainingObjective, StepRandom


def lowest_share(score_BHW: Tensor, share: float) -> Tensor:
    """Which pixels have the lowest scores of their image: a mask (B, H, W).

    The share is rounded down to whole pixels; of equal pixels the first ones are taken.
    """
    score_BP = score_BHW.flatten(1)
    count = int(share * score_BP.shape[1])
    lowest_BN = score_BP.argsort(dim=1, stable=True)[:, :count]
    mask_BP = torch.zeros_like(score_BP, dtype=torch.bool).scatter(1, lowest_BN, True)
    return mask_BP.view(score_BHW.shape)


def randomised(x_BCHW: Tensor, mask_BHW: Tensor, generator: torch.Generator) -> Tensor:
    """Images with masked pixels replaced by values drawn from their channel's range.

    Each value is uniform between the least and the greatest of its image and channel. The generator
    is on the device of the images.
    """
    low_BC11 = x_BCHW.amin((2, 3), keepdim=True)
    high_BC11 = x_BCHW.amax((2, 3), keepdim=True)
    noise_BCHW = torch.rand(
        x_BCHW.shape, generator=generator, device=x_BCHW.device, dtype=x_BCHW.dtype
    )
    return torch.where(
        mask_BHW.unsqueeze(1), low_BC11 + noise_BCHW * (high_BC11 - low_BC11), x_BCHW
    )


def prediction_divergence(logits_BK: Tensor, masked_logits_BK: Tensor) -> Tensor:
    """KL(softmax(z) || softmax(z')), in nats, averaged over the batch; both sides learn."""
    log_p_BK, log_q_BK = F.log_softmax(logits_BK, dim=1), F.log_softmax(masked_logits_BK, dim=1)
    return F.kl_div(log_q_BK, log_p_BK, reduction="batchmean", log_target=True)


class SaliencyGuided(ExplainingObjective):
    """L = CE(softmax(z(x)), y) + w KL(softmax(z(x)) || softmax(z(x'))).

    x' is x with the pixels of the smallest gradient d z_y / d x replaced by random values. The
    gradient comes from the forward pass of the loss; x' takes a second one.

    Args:
        model: maps images (B, C, H, W) to logits (B, K).
        share: of the pixels that are replaced, in [0, 1].
        weight: w.
        signed: rank pixels by the signed gradient, as the authors' code does by default, in place
            of its magnitude.

    Raises:
        InputError: share or weight is out of its range.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> out = SaliencyGuided(model)(torch.randn(2, 1, 2, 2), torch.tensor([0, 2]))
        >>> out["loss"].backward()
    """

    tunable: ClassVar[Mapping[str, Tunable]] = {
        "share": Range(0.1, 0.7),
        "weight": Range(0.1, 3.0, log=True),
    }

    def __init__(
        self,
        model: nn.Module,
        share: float = SaliencyGuidedOptions.share,
        weight: float = SaliencyGuidedOptions.weight,
        signed: bool = SaliencyGuidedOptions.signed,
    ) -> None:
        SaliencyGuidedOptions.check(share=share, weight=weight, signed=signed)
        super().__init__(model)
        self.share = share
        self.weight = weight
        self.signed = signed
        self.random = StepRandom()

    def explained_loss(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,); terms cross_entropy and divergence."""
        captured, logits_BK = self.captured(x_BCHW, y_B, "gradient")
        gradient_BHW = maps_of_own_classes(
            captured, logits_BK, y_B.unsqueeze(1), kind="gradient"
        ).squeeze(1)
        masked_BCHW = self._masked(x_BCHW, gradient_BHW)
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        divergence = prediction_divergence(logits_BK, self.model(masked_BCHW))
        return {
            "loss": cross_entropy + self.weight * divergence,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "divergence": divergence.detach(),
        }

    def after_step(self) -> None:
        """Draw other values in the next step."""
        self.random.advance()

    def _masked(self, x_BCHW: Tensor, gradient_BHW: Tensor) -> Tensor:
        """The images without what the model hardly hears, as constants."""
        score_BHW = gradient_BHW if self.signed else gradient_BHW.abs()
        mask_BHW = lowest_share(score_BHW, self.share)
        return randomised(x_BCHW.detach(), mask_BHW, self.random.generator(x_BCHW.device))
