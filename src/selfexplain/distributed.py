"""The processes of a run: how many there are, their shares of a batch, rows of all of them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from selfexplain.errors import InputError, LostProcessError, first_line

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
    """This process's share of rows that `gathered` put together."""
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
    """Raise InputError unless `rank` exists and each process can have as many images."""
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


# What processes tell each other, and what is said when one of them is gone.


SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")
"""What errors of torch.distributed say, in lower case, when the other end is gone."""


@contextmanager
def lost_process_said() -> Iterator[None]:
    """Turn what torch.distributed raises when another process has ended into one sentence."""
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not _is_of_lost_process(error):
            raise
        raise LostProcessError(
            "another process of this run has ended, or cannot be reached any more; see what it "
            "said, and start all of them again"
        ) from error


@contextmanager
def joining_said(count: int) -> Iterator[None]:
    """Say in one sentence that several processes could not be joined to one run."""
    try:
        yield
    except RuntimeError as error:
        if count == 1 or not _is_of_lost_process(error):
            raise
        raise LostProcessError(
            f"the {count} processes of this run could not be joined ({first_line(error)}): one of "
            "them has ended, or cannot be reached at the address of the first; see what each "
            "said, and start all of them again"
        ) from error


def _is_of_lost_process(error: RuntimeError) -> bool:
    distributed = getattr(dist, "DistError", ())  # not in every build of PyTorch
    return isinstance(error, distributed) or any(sign in str(error).lower() for sign in SIGNS)


@torch.no_grad()
def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with what the first process has in them.

    Example:
        >>> take_from_first([torch.zeros(2)])
    """
    if world_size() > 1:
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, 0)
            tensor.copy_(whole)


def mean_numbers(numbers: Mapping[str, float]) -> dict[str, float]:
    """Means over the processes of numbers that all name alike."""
    if world_size() == 1:
        return dict(numbers)
    values_PN = gathered(torch.tensor([list(numbers.values())], dtype=torch.float64), uneven=True)
    return dict(zip(numbers, values_PN.mean(0).tolist(), strict=True))


def exists_for_all(path: Path) -> bool:
    """Whether a file exists, as all processes see it.

    Raises:
        InputError: some see it and some do not.

    Example:
        >>> exists_for_all(Path("absent"))
        False
    """
    seen_P = gathered(torch.tensor([path.exists()]), uneven=True)
    if seen_P.any() != seen_P.all():
        raise InputError(
            f"{path} is not there for every process; pass --out on a file system that all the "
            "machines share"
        )
    return bool(seen_P.all())
