"""A running mean of similarities for each true class, kept across steps, processes and checkpoints.

Shape suffixes: B batch, K classes; in KK the first is the true class.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.objectives.processes import world_size


class RunningClassMean(nn.Module):
    """Exponential running mean of rows s (B, K), one row for each true class.

    A class's first batch sets its row; each later batch moves it by (1 - momentum) towards the
    batch's mean. With several processes the batch is the global one, reduced over the default
    process group, all of whose processes must take part. The buffers take their shape
    from the first batch, so that the number of classes need not be given twice.

    Args:
        momentum: share of the old mean that is kept at each update, in [0, 1].

    Example:
        >>> mean = RunningClassMean(momentum=0.5)
        >>> mean.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        >>> mean.update(torch.tensor([[0.0, 4.0]]), torch.tensor([0]))
        >>> mean(torch.tensor([0]))
        tensor([[0.5000, 2.0000]])
    """

    mean_KK: Tensor
    seen_K: Tensor

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean_KK", torch.empty(0, 0))
        self.register_buffer("seen_K", torch.empty(0, dtype=torch.bool))

    @property
    def started(self) -> bool:
        """Whether any batch has been seen."""
        return self.mean_KK.numel() > 0

    def forward(self, y_B: Tensor) -> Tensor:
        """Rows of the labels, (B, K); zeros, a tie of all classes, for one not seen yet."""
        return self.mean_KK[y_B]

    @torch.no_grad()
    def update(self, s_BK: Tensor, y_B: Tensor) -> None:
        """Take in the similarities (B, K) of one batch with true classes (B,)."""
        s_BK, classes = s_BK.float(), s_BK.shape[1]
        if not self.started:
            self.mean_KK = s_BK.new_zeros(classes, classes)
            self.seen_K = torch.zeros(classes, dtype=torch.bool, device=s_BK.device)
        onehot_BK = F.one_hot(y_B, classes).to(s_BK.dtype)
        with torch.autocast(s_BK.device.type, enabled=False):
            sums_KK, count_K = onehot_BK.T @ s_BK, onehot_BK.sum(dim=0)
        if world_size() > 1:
            dist.all_reduce(sums_KK)
            dist.all_reduce(count_K)
        present_K = count_K > 0
        batch_KK = sums_KK / count_K.clamp_min(1).unsqueeze(1)
        keep_K = torch.where(self.seen_K, self.momentum, 0.0)
        keep_K1 = torch.where(present_K, keep_K, 1.0).unsqueeze(1)
        mean_KK = (keep_K1 * self.mean_KK + (1 - keep_K1) * batch_KK).to(s_BK.dtype)
        self._keep(mean_KK, self.seen_K | present_K)

    def _keep(self, mean_KK: Tensor, seen_K: Tensor) -> None:
        """Keep both in place where it can be: a recorded step (training/recording.py) knows where.

        A mean that was cast with its model goes back to float32. Nothing can be written into what
        was made in inference mode outside it.
        """
        if self.mean_KK.is_inference() or self.mean_KK.dtype != mean_KK.dtype:
            self.mean_KK, self.seen_K = mean_KK, seen_K
        else:
            self.mean_KK.copy_(mean_KK)
            self.seen_K.copy_(seen_K)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("mean_KK", "seen_K"):
            if prefix + name in state_dict:
                old: Tensor = getattr(self, name)
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=old.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
