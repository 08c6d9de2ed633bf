"""Introspection with a mass of its own: how much of the target goes to other classes is remembered.

PS-KD (Kim et al. 2021) takes both from the model's prediction of the last epoch: how much of the
target the other classes get, and which of them. Here the prediction gives the amount alone. Who
gets it is said by the explanations; or by nobody, which is the control.

Shape suffixes: B batch, C channels, H and W space, K classes, N training images.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from selfexplain.distributed import gathered
from selfexplain.introspection.objective import Introspective
from selfexplain.introspection.options import OwnMassControl
from selfexplain.introspection.target import (
    mixed_target,
    shuffled,
    soft_cross_entropy,
    softmax_target,
    uniform_target,
)
from selfexplain.objectives.options import OwnMassOptions
from selfexplain.objectives.ps_kd import check_places
from selfexplain.objectives.shared.base import (
    ObjectiveContext,
    Range,
    Tunable,
    true_mask,
)
from selfexplain.objectives.shared.memory import Epochs, RisingShare, check_rows


def standardized_similarity(s_BK: Tensor, y_B: Tensor) -> Tensor:
    """Similarities as z-scores over each image's non-target classes: (B, K), 0 at the target.

    A similarity has whatever scale its measure gives it and training leaves it; of a z-score one
    temperature can be chosen. Classes that are all equally similar get 0.
    """
    is_target_BK = true_mask(s_BK, y_B)
    count = s_BK.shape[1] - 1
    mean_B1 = s_BK.masked_fill(is_target_BK, 0.0).sum(dim=1, keepdim=True) / count
    centered_BK = (s_BK - mean_B1).masked_fill(is_target_BK, 0.0)
    std_B1 = (centered_BK.square().sum(dim=1, keepdim=True) / count).sqrt()
    return centered_BK / std_B1.clamp_min(torch.finfo(s_BK.dtype).tiny)


def hashed_permutation(q_BK: Tensor, y_B: Tensor, place_B: Tensor, salt: int) -> Tensor:
    """The same target values on shuffled non-target classes, by a hash in place of a generator.

    Which class gets which value depends on the image's place in the training set and the salt
    alone, so every device and every process gives the same, and nothing is drawn.
    """
    classes = torch.arange(q_BK.shape[1], device=q_BK.device)
    keys_BK = (place_B.unsqueeze(1) * 1_000_003 + classes * 7_919 + salt * 104_729) & 0x7FFFFFFF
    for _ in range(2):  # two rounds of multiply and shift mix all bits of so small numbers
        keys_BK = (keys_BK ^ (keys_BK >> 15)) * 0x2C1B3C6D & 0x7FFFFFFF
    return shuffled(q_BK, y_B, keys_BK.double())


class OwnMass(RisingShare, Introspective):
    """L = CE(softmax(z), (1 - m) onehot(y) + m q), with a mass m that the model gives itself.

        m = min(cap, alpha_t (1 - p_{t-1}(y | x))),   alpha_t = alpha t / T
        q = softmax over c != y of kappa times the z-scores of s_c

    p_{t-1}(y | x) is what the model gave the image's label in epoch t - 1, s_c how much class c's
    attribution resembles the label's (`attribution_cosine`). With kappa = 0 the mass is spread
    evenly and no explanation is made: the control for whether the similarity adds anything. In the
    first epoch, and of an image that was not seen yet, m is 0.

    Args:
        model: maps images (B, C, H, W) to logits (B, K); its logits are a linear map of an averaged
            feature map, unless kappa is 0.
        num_images: N, images in the training set.
        alpha: share of its own mass in the last epoch, in [0, 1].
        kappa: how far the mass leans to the classes with similar explanations; negative: away.
        cap: the most that m may be, in [0, 1].
        control: permuted gives the same values to shuffled classes.

    Raises:
        InputError: an option is out of its limits; at a call, as `Introspective`, or if the images'
            places are missing or do not fit, or no epoch was begun.

    Example:
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=5, in_channels=1)
        >>> objective = OwnMass(model, num_images=10)
        >>> objective.begin_epoch(0, epochs=2)
        >>> x, y, index = torch.randn(2, 1, 8, 8), torch.tensor([0, 2]), torch.tensor([7, 1])
        >>> objective(x, y, index)["loss"].backward()
    """

    wants_indices = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"alpha": Range(0.3, 1.0)}
    past_N: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        num_images: int,
        alpha: float = OwnMassOptions.alpha,
        kappa: float = OwnMassOptions.kappa,
        cap: float = OwnMassOptions.cap,
        control: OwnMassControl = OwnMassOptions.control,
    ) -> None:
        OwnMassOptions.check(alpha=alpha, kappa=kappa, cap=cap, control=control)
        super().__init__(model, form="mixed")
        self.alpha, self.kappa, self.cap, self.own_control = alpha, kappa, cap, control
        self.epochs = Epochs()
        # What the model gave each image's label when it last saw it; 1, no mass, before that.
        self.register_buffer("past_N", torch.ones(num_images))

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective with a memory for the run's images."""
        return cls(model, num_images=context.num_images, **options)

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """Always: the epoch's share is fixed within an epoch, and nothing is drawn."""
        return True

    def forward(self, x_BCHW: Tensor, y_B: Tensor, *index_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W), labels (B,) and places in the training set (B,)."""
        if self.kappa == 0:
            logits_BK, captured = self._checked(self.model(x_BCHW), y_B), None
        else:
            logits_BK, captured = self._explained_forward(x_BCHW, y_B)
        place_B = check_places(index_B, y_B, len(self.past_N))
        if self.training:
            self.epochs.check_begun()
        if captured is None:
            q_BK = uniform_target(logits_BK.detach().float(), y_B)
        else:
            q_BK = self.target_of(self._similarity(logits_BK, captured, y_B), y_B)
        if self.own_control == "permuted":
            q_BK = hashed_permutation(q_BK, y_B, place_B, self.epochs.done()[0])
        mass_B = (self.share * (1 - self.past_N[place_B])).clamp_max(self.cap)
        target_BK = mixed_target(q_BK, y_B, mass_B)
        loss = soft_cross_entropy(logits_BK.to(target_BK.dtype), target_BK)
        if self._learns_now():
            self._remember(logits_BK, y_B, place_B)
        return {
            "loss": loss,
            "output": logits_BK if torch.is_grad_enabled() else logits_BK.detach(),
            "mass": mass_B.mean().detach(),
        }

    def target_of(self, similarity_BK: Tensor, y_B: Tensor) -> Tensor:
        """Where the own mass goes, q (B, K), by similarities (B, K).

        Example:
            >>> from selfexplain.models import build_model
            >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
            >>> objective = OwnMass(model, num_images=4, kappa=0.0)
            >>> objective.target_of(torch.tensor([[1.0, 0.1, 0.4]]), torch.tensor([0]))
            tensor([[0.0000, 0.5000, 0.5000]])
        """
        return softmax_target(self.kappa * standardized_similarity(similarity_BK, y_B), y_B)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; InputError if the checkpoint is of another number of images."""
        check_rows(state_dict, prefix + "past_N", self.past_N, "num_images")
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def _remember(self, logits_BK: Tensor, y_B: Tensor, place_B: Tensor) -> None:
        p_BK = logits_BK.softmax(dim=1, dtype=self.past_N.dtype)
        self.past_N[gathered(place_B)] = gathered(p_BK.gather(1, y_B.unsqueeze(1)).squeeze(1))
