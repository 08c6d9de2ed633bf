"""Deep mutual learning (Zhang, Xiang, Hospedales and Lu 2018).

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.objectives.options import DMLOptions
from selfexplain.objectives.shared.base import (
    Objective,
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
)


def mutual_divergences(peers_BK: Sequence[Tensor]) -> Tensor:
    """Mean over l != k of KL(p_l || p_k), p_l detached, for each network k: (N,), in nats."""
    log_p = [F.log_softmax(logits_BK, dim=1) for logits_BK in peers_BK]
    taught = [log_p_BK.detach() for log_p_BK in log_p]
    means = []
    for k, mine_BK in enumerate(log_p):
        terms = [
            F.kl_div(mine_BK, other_BK, log_target=True, reduction="batchmean")
            for other_BK in taught[:k] + taught[k + 1 :]
        ]
        means.append(torch.stack(terms).mean())
    return torch.stack(means)


class DML(Objective):
    """Several networks learn together, each from the labels and from the others' predictions.

        L_k = CE(p_k, y) + w mean_{l != k} KL(p_l || p_k)         (p_l detached)
        L   = sum_k L_k

    Each network's gradient is that of its own L_k, as published. Published too is that the networks
    are updated in turn, each with the others' newest predictions; here all are in one step.

    Args:
        model: maps images (B, C, H, W) to logits (B, K); its logits are the output.
        peers: one or more other models with the same classes, of any kind. They are trained too.
        weight: w; 1 as published.

    Raises:
        InputError: there are no peers, one model is given twice, or the weight is negative; at a
            call, if the models differ in their number of classes.

    Example:
        >>> from selfexplain.models import build_model
        >>> first, second = (build_model("small_cnn", num_classes=3, in_channels=1) for _ in "ab")
        >>> objective = DML(first, peers=[second])
        >>> out = objective(torch.randn(2, 1, 8, 8), torch.tensor([0, 2]))
        >>> out["loss"].backward()
        >>> sorted(out)
        ['cross_entropy', 'loss', 'mutual', 'output']
    """

    takes_soft_labels = True
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"weight": Range(0.1, 10.0, log=True)}

    def __init__(
        self, model: nn.Module, peers: Sequence[nn.Module], weight: float = DMLOptions.weight
    ) -> None:
        if not peers:
            raise InputError("peers is empty; pass at least one other model")
        if len({id(each) for each in (model, *peers)}) <= len(peers):
            raise InputError("one model is given twice; pass peers with weights of their own")
        DMLOptions.check(weight=weight)
        super().__init__(model)
        self.peers = nn.ModuleList(peers)
        self.weight = weight

    @classmethod
    def from_context(
        cls,
        model: nn.Module,
        context: ObjectiveContext,
        *,
        networks: int = DMLOptions.networks,
        **options: Any,
    ) -> Self:
        """Build it with peers of the model's kind, so that there are `networks` in all."""
        DMLOptions.check(networks=networks)
        return cls(model, [context.make_model() for _ in range(networks - 1)], **options)

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,) or (B, K).

        The terms cross_entropy and mutual are those of the model itself, mutual without its weight.
        """
        every_BK = [
            check_logits(model(x_BCHW), y_B, soft=True) for model in (self.model, *self.peers)
        ]
        if len(classes := {logits_BK.shape[1] for logits_BK in every_BK}) > 1:
            raise InputError(
                f"the models have {' and '.join(map(str, sorted(classes)))} classes; "
                "pass peers with the model's number of classes"
            )
        cross_entropy_N = torch.stack([F.cross_entropy(logits_BK, y_B) for logits_BK in every_BK])
        mutual_N = mutual_divergences(every_BK)
        return {
            "loss": (cross_entropy_N + self.weight * mutual_N).sum(),
            "output": every_BK[0],
            "cross_entropy": cross_entropy_N[0].detach(),
            "mutual": mutual_N[0].detach(),
        }
