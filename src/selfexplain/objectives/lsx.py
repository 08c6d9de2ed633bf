"""Learning by self-explaining (LSX): a learner, and a critic that sees its explanations alone.

Source: Stammer, Friedrich, Steinmann, Brack, Shindo and Kersting 2024, "Learning by
Self-Explaining" (arXiv 2309.08395). Read: the abstract, and the authors' published code for
convolutional networks; how this single step differs from their phases is on the page
docs/methods/lsx.md. Not to be confused with LeaSE (`selfexplain.lease`).

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.explanations import gradient_of_own_class
from selfexplain.objectives.options import LearnerCriticOptions
from selfexplain.objectives.shared.base import (
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
)
from selfexplain.objectives.shared.explaining import ExplainingObjective

EPSILON = 1e-8


def evidence(x_BCHW: Tensor, gradient_BCHW: Tensor) -> Tensor:
    """Where the input speaks for the class: relu(x g) over its maximum in each image, in [0, 1]."""
    positive_BCHW = (x_BCHW * gradient_BCHW).relu()
    return positive_BCHW / (positive_BCHW.amax((1, 2, 3), keepdim=True) + EPSILON)


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The tensor itself, through which gradients come back times `factor`."""
    constant = tensor.detach()
    return constant + factor * (tensor - constant)


class LearnerCritic(ExplainingObjective):
    """L = CE(f(x), y) + w CE(c'(e), y) + CE(c(e'), y), with ' for what is kept constant.

    e = relu(x d f_y(x) / d x), scaled to [0, 1], is the learner's explanation. The critic c learns
    to tell the class from it, and the learner f to explain so that the critic as it is can tell.
    Both critic terms have one value, and one forward pass of the critic serves both.

    Args:
        model: the learner; maps images (B, C, H, W) to logits (B, K).
        critic: another model with the same inputs and outputs; in a run one more of the same kind.
        weight: w.

    Raises:
        InputError: the weight is negative.

    Example:
        >>> import torch
        >>> from selfexplain.models import build_model
        >>> learner, critic = (build_model("small_cnn", num_classes=5, in_channels=1) for _ in "fc")
        >>> objective = LearnerCritic(learner, critic)
        >>> out = objective(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> out["loss"].backward()
    """

    second_derivatives = True
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"weight": Range(0.1, 50.0, log=True)}

    def __init__(
        self, model: nn.Module, critic: nn.Module, weight: float = LearnerCriticOptions.weight
    ) -> None:
        LearnerCriticOptions.check(weight=weight)
        super().__init__(model)
        self.critic = critic
        self.weight = weight

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective with a critic of the learner's kind, with weights of its own."""
        return cls(model, context.make_model(), **options)

    def explained_loss(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,); terms cross_entropy and critic."""
        captured, logits_BK = self.captured(x_BCHW, y_B, "input_x_gradient")
        gradient_BCHW = gradient_of_own_class(captured, logits_BK, y_B, create_graph=True)
        evidence_BCHW = evidence(x_BCHW.detach(), gradient_BCHW)
        heard_BCHW = scale_gradient(evidence_BCHW, self.weight)
        critic = F.cross_entropy(check_logits(self.critic(heard_BCHW), y_B), y_B)
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        return {
            # The critic's gradient, and through the scaled explanations w times the learner's;
            # the constant gives the loss the value of its formula.
            "loss": cross_entropy + critic + self.weight * critic.detach(),
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "critic": critic.detach(),
        }
