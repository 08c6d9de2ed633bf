"""The processes of a run: how many there are, their shares of a batch, rows of all of them."""

import torch
import torch.distributed as dist
from torch import Tensor

from selfexplain.errors import InputError

# One memory for all processes: what each of them saw, put together in every step.
#
# Objectives that remember predictions or images remember those of the global batch, so that every
# process holds the same state. The checkpoint, which one process writes, then holds all of it,
# and DistributedDataParallel, which copies the first process's buffers to the others before each
# forward pass, copies what they have already.


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


def gathered(rows: Tensor, *, uneven: bool = False) -> Tensor:
    """Rows (B, ...) of all processes of the default group, in the order of their ranks, detached.

    All processes must take part.

    Args:
        rows: as many on each process, on the device that the processes communicate by.
        uneven: whether their number may differ; for rows on the CPU, and slower.

    Example:
        >>> gathered(torch.tensor([3, 1]))
        tensor([3, 1])
    """
    rows = rows.detach()
    if world_size() == 1:
        return rows
    if uneven:
        pieces: list[Tensor] = [rows] * world_size()
        dist.all_gather_object(pieces, rows)
        return torch.cat(pieces)
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


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """Give the part of `count` images that falls to `rank`; parts differ by at most one image.

    Example:
        >>> [rank_slice(7, rank, 3) for rank in range(3)]
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
    """
    share, rest = divmod(count, world_size)
    start = rank * share + min(rank, rest)
    return slice(start, start + share + (rank < rest))


def check_ranks(batch_size: int, rank: int, world_size: int) -> None:
    """Raise InputError unless `rank` exists and each process can have as many images.

    Example:
        >>> check_ranks(batch_size=12, rank=2, world_size=3)
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise InputError(
            f"rank {rank} of world_size {world_size} does not exist; "
            "pass a rank from 0 to world_size - 1"
        )
    if batch_size % world_size:
        raise InputError(
            f"batch_size {batch_size} cannot be shared evenly by {world_size} processes; "
            f"pass a multiple of {world_size}"
        )
