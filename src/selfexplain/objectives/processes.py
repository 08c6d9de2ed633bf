"""One memory for all processes: what each of them saw, put together in every step.

Objectives that remember predictions or images remember those of the global batch, so that every
process holds the same state. The checkpoint, which one process writes, then holds all of it, and
DistributedDataParallel, which copies the first process's buffers to the others before each forward
pass, copies what they have already.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes of the default group; 1 where there is none.

    Example:
        >>> world_size()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process in the default group; 0 where there is none.

    Example:
        >>> rank()
        0
    """
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gathered(rows: Tensor) -> Tensor:
    """Rows (B, ...) of all processes of the default group, in the order of their ranks, detached.

    All processes must take part, with the same number of rows each.

    Example:
        >>> gathered(torch.tensor([3, 1]))
        tensor([3, 1])
    """
    rows = rows.detach()
    if world_size() == 1:
        return rows
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def own_part(rows: Tensor) -> Tensor:
    """This process's share of rows that `gathered` put together.

    Example:
        >>> own_part(torch.tensor([3, 1]))
        tensor([3, 1])
    """
    if world_size() == 1:
        return rows
    return rows.tensor_split(world_size())[rank()]
