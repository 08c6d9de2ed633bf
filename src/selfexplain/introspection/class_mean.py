"""A running mean of similarities for each true class, kept across steps, processes and checkpoints.

Shape suffixes: B batch, K classes; in KK the first is the true class.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.objectives.memory import EXTRA, Counts
from selfexplain.objectives.processes import world_size


class RunningClassMean(nn.Module):
    """Exponential running mean of rows s (B, K), one row for each true class.

    A class's first batch sets its row; each later batch moves it by (1 - momentum) towards the
    batch's mean. With several processes the batch is the global one, reduced over the default
    process group, all of whose processes must take part. Both buffers are float32 whatever the
    model is cast to.

    Args:
        momentum: share of the old mean that is kept at each update, in [0, 1].
        num_classes: K; 0 if that is not known, and then the buffers take their shape from the first
            batch. If it is another than the batches', they do, too, with a warning.

    Example:
        >>> mean = RunningClassMean(momentum=0.5)
        >>> mean.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        >>> mean.update(torch.tensor([[0.0, 4.0]]), torch.tensor([0]))
        >>> mean(torch.tensor([0]))
        tensor([[0.5000, 2.0000]])
    """

    mean_KK: Tensor
    seen_K: Tensor

    def __init__(self, momentum: float, num_classes: int = 0) -> None:
        super().__init__()
        self.momentum = momentum
        # Not boolean: what averages models averages their buffers, and booleans have no mean.
        self.register_buffer("mean_KK", torch.zeros(num_classes, num_classes))
        self.register_buffer("seen_K", torch.zeros(num_classes))
        self.counts = Counts(updates=0)

    @property
    def started(self) -> bool:
        """Whether any batch has been seen; to ask does not wait for a device."""
        return self.counts["updates"] > 0

    def forward(self, y_B: Tensor) -> Tensor:
        """Rows of the labels, (B, K); zeros, a tie of all classes, for one not seen yet."""
        return self.mean_KK[y_B]

    @torch.no_grad()
    def update(self, s_BK: Tensor, y_B: Tensor) -> None:
        """Take in the similarities (B, K) of one batch with true classes (B,)."""
        s_BK, classes = s_BK.float(), s_BK.shape[1]
        if len(self.seen_K) != classes:
            self._resize(classes, s_BK.device)
        onehot_BK = F.one_hot(y_B, classes).to(s_BK.dtype)
        with torch.autocast(s_BK.device.type, enabled=False):
            sums_KK, count_K = onehot_BK.T @ s_BK, onehot_BK.sum(dim=0)
        if world_size() > 1:
            dist.all_reduce(sums_KK)
            dist.all_reduce(count_K)
        present_K = count_K > 0
        batch_KK = sums_KK / count_K.clamp_min(1).unsqueeze(1)
        keep_K = torch.where(self.seen_K > 0, self.momentum, 0.0)
        keep_K1 = torch.where(present_K, keep_K, 1.0).unsqueeze(1)
        mean_KK = keep_K1 * self.mean_KK + (1 - keep_K1) * batch_KK
        self._keep(mean_KK, torch.maximum(self.seen_K, present_K.to(self.seen_K.dtype)))
        self.counts["updates"] += 1

    def get_extra_state(self) -> Tensor:
        """The number of updates, (1,)."""
        return self.counts.tensor_N

    def set_extra_state(self, state: Tensor | Mapping[str, int]) -> None:
        """Take back what `get_extra_state` gave."""
        self.counts.load(state)

    def _keep(self, mean_KK: Tensor, seen_K: Tensor) -> None:
        """Keep both in place: a recorded step (training/recording.py) knows where.

        Nothing can be written into what was made in inference mode outside it.
        """
        if self.mean_KK.is_inference() and not torch.is_inference_mode_enabled():
            self.mean_KK, self.seen_K = mean_KK, seen_K
        else:
            self.mean_KK.copy_(mean_KK)
            self.seen_K.copy_(seen_K)

    def _resize(self, classes: int, device: torch.device) -> None:
        """Begin anew with another number of classes."""
        if len(self.seen_K):
            warnings.warn(
                f"the running class means were made for {len(self.seen_K)} classes, as the model's "
                f"last layer has, and its logits are of {classes}; pass num_classes={classes} to "
                "the objective, so that its state has one shape from the start",
                stacklevel=2,
            )
        self.mean_KK = torch.zeros(classes, classes, device=device)
        self.seen_K = torch.zeros(classes, device=device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model, but stay in float32 where the model is cast."""
        before = self.mean_KK, self.seen_K
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.mean_KK.dtype != before[0].dtype:
            self.mean_KK, self.seen_K = (old.to(self.mean_KK.device) for old in before)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; those of version 0.1.0 are empty before the first batch, and not counted."""
        seen_K = state_dict.get(prefix + "seen_K")
        if seen_K is not None:
            state_dict.setdefault(prefix + EXTRA, torch.tensor([int(seen_K.any())]))
            if not len(seen_K):
                state_dict[prefix + "mean_KK"] = torch.zeros_like(self.mean_KK)
                state_dict[prefix + "seen_K"] = torch.zeros_like(self.seen_K)
            elif len(seen_K) != len(self.seen_K):
                self.mean_KK = self.mean_KK.new_zeros(len(seen_K), len(seen_K))
                self.seen_K = self.seen_K.new_zeros(len(seen_K))
        super()._load_from_state_dict(state_dict, prefix, *args)


def find_num_classes(model: nn.Module) -> int:
    """The number of classes that a model says, or else its last linear layer has; 0 if none does.

    A guess: layers stand in the order in which they were made, and the last may not be the head.

    Example:
        >>> find_num_classes(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 7)))
        7
    """
    for module in model.modules():  # the model itself first, then what it wraps
        config = getattr(module, "config", None)
        for number in (getattr(module, "num_classes", 0), getattr(config, "num_labels", 0)):
            if isinstance(number, int) and number > 0:
                return number
    linear = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]
    return linear[-1] if linear else 0
