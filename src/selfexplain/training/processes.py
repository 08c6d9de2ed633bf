"""Several processes as one: means and BatchNorms of all of them, through torch.distributed.

Without a process group there is one process, and nothing is communicated.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from selfexplain.distributed import rank, world_size
from selfexplain.errors import InputError
from selfexplain.hypergradients import World
from selfexplain.objectives.shared.base import Objective


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


def synchronize_batch_norm(objective: Objective) -> None:
    """Let every BatchNorm of an objective compute its statistics from all processes' images.

    Weights, buffers and their names stay, so that checkpoints and saved models are the same. To be
    called before the first step: objectives remember the layers that they have found.

    Raises:
        InputError: the loss holds gradients, and SyncBatchNorm has no second derivatives.

    Example:
        >>> from selfexplain.objectives import Standard
        >>> objective = Standard(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
        >>> synchronize_batch_norm(objective)
        >>> type(objective.model[1]).__name__
        'SyncBatchNorm'
    """
    for module in objective.modules():
        if isinstance(module, Objective) and module.second_derivatives:
            raise InputError(
                f"the loss of {type(module).__name__} holds gradients, and torch's SyncBatchNorm "
                "has no second derivatives; leave out --sync-batchnorm"
            )
    nn.SyncBatchNorm.convert_sync_batchnorm(objective)  # type: ignore[no-untyped-call]
