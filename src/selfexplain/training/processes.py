"""Several processes as one: means, shares and agreement, through torch.distributed.

Without a process group there is one process, and nothing is communicated.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from selfexplain.distributed import rank, world_size
from selfexplain.hypergradients import World


def joined_processes() -> World:
    """The processes of the default group, for a search over all of them.

    Example:
        >>> joined_processes().count
        1
    """
    if world_size() == 1:
        return World()
    return World(rank(), world_size(), _mean)


def _mean(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Means over the processes, by one transfer of all tensors together."""
    if not tensors:
        return ()
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return tuple(
        part.view(tensor.shape).to(tensor.dtype)
        for part, tensor in zip(parts, tensors, strict=True)
    )
