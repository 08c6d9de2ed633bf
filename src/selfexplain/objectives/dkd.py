"""Decoupled knowledge distillation (DKD).

Source: Zhao, Cui, Song, Qiu and Liang 2022, "Decoupled Knowledge Distillation", section 3, and the
warm-up of its authors' code.

Shape suffixes: B batch, C channels, H and W space, K classes, J = K - 1 classes that are not true.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.objectives.options import DKDOptions
from selfexplain.objectives.shared.base import (
    Range,
    Tunable,
    check_logits,
    non_target,
)
from selfexplain.objectives.shared.memory import Epochs
from selfexplain.objectives.shared.teacher import DistillationObjective


def target_class_kl(z_BK: Tensor, t_BK: Tensor, y_B: Tensor) -> Tensor:
    """KL of "the true class or another": of (q_y, 1 - q_y) from (p_y, 1 - p_y), in nats: (B,).

    z are logits of p, the student; t are those of q, the teacher.
    """
    log_p_B2, log_q_B2 = _true_or_other(z_BK, y_B), _true_or_other(t_BK, y_B)
    return F.kl_div(log_p_B2, log_q_B2, reduction="none", log_target=True).sum(dim=1)


def _true_or_other(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """Log p_y and log(1 - p_y), without the loss of digits that 1 - p_y would bring: (B, 2)."""
    true_B = z_BK.gather(1, y_B.unsqueeze(1)).squeeze(1)
    other_B = torch.logsumexp(non_target(z_BK, y_B), dim=1)
    return F.log_softmax(torch.stack((true_B, other_B), dim=1), dim=1)


def non_target_kl(z_BK: Tensor, t_BK: Tensor, y_B: Tensor) -> Tensor:
    """KL of "which of the others": of q without its true class from p without its, in nats: (B,).

    z are logits of p, the student; t are those of q, the teacher.
    """
    log_p_BJ = F.log_softmax(non_target(z_BK, y_B), dim=1)
    log_q_BJ = F.log_softmax(non_target(t_BK, y_B), dim=1)
    return F.kl_div(log_p_BJ, log_q_BJ, reduction="none", log_target=True).sum(dim=1)


class DKD(DistillationObjective):
    """L = CE(softmax(z), y) + w T^2 (alpha TCKD + beta NCKD).

    TCKD is `target_class_kl` and NCKD is `non_target_kl`, of the logits divided by T. Hinton's
    KL is TCKD + (1 - q_y) NCKD: it hides the others the more, the surer the teacher is. w grows
    from 1 / n to 1 over the first n epochs of the warm-up.

    Args:
        model: the student; maps images (B, C, H, W) to logits z (B, K).
        teacher: a trained model with logits t of the same classes.
        alpha: weight of TCKD; 1 as published.
        beta: weight of NCKD; 8 as published for ResNets of one family (the authors choose it for
            each pair of networks).
        temperature: T > 0; 4 as published.
        warmup: n as a share of all epochs, in [0, 1]. The authors' 20 epochs of 240; a share, so
            that short runs are warmed up in proportion, is our choice. In a loop that does not call
            `begin_epoch` there is no warm-up.

    Raises:
        InputError: an option is out of its limits, or the teacher does not fit.

    Example:
        >>> def linear():
        ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> out = DKD(linear(), teacher=linear())(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))
        >>> out["loss"].backward()
    """

    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "beta": Range(0.5, 16.0, log=True),
        "temperature": Range(1.0, 10.0, log=True),
    }

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        alpha: float = DKDOptions.alpha,
        beta: float = DKDOptions.beta,
        temperature: float = DKDOptions.temperature,
        warmup: float = DKDOptions.warmup,
    ) -> None:
        DKDOptions.check(alpha=alpha, beta=beta, temperature=temperature, warmup=warmup)
        super().__init__(model, teacher)
        self.alpha, self.beta = alpha, beta
        self.temperature = temperature
        self.warmup = warmup
        self.epochs = Epochs()

    @property
    def strength(self) -> float:
        """Weight w of the current epoch; 1 before the first epoch."""
        done, epochs = self.epochs.done()
        length = self.warmup * epochs
        return min(1.0, done / length) if length else 1.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set the weight w of this epoch's distillation."""
        self.epochs.begin(epoch, epochs)

    def skip_warmup(self) -> None:
        """Distil at full weight until the next epoch begins."""
        self.epochs.begin(0, 1)  # of one epoch, in which any warm-up ends

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,); terms cross_entropy, tckd and nckd."""
        logits_BK = check_logits(self.model(x_BCHW), y_B)
        teacher_BK = self.teacher_logits(x_BCHW, logits_BK)
        z_BK, t_BK = (v.float() / self.temperature for v in (logits_BK, teacher_BK))
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        tckd = self.temperature**2 * target_class_kl(z_BK, t_BK, y_B).mean()
        nckd = self.temperature**2 * non_target_kl(z_BK, t_BK, y_B).mean()
        return {
            "loss": cross_entropy + self.strength * (self.alpha * tckd + self.beta * nckd),
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "tckd": tckd.detach(),
            "nckd": nckd.detach(),
        }
