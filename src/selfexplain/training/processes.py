"""Several processes as one: means, shares and agreement, through torch.distributed.

Without a process group there is one process, and nothing is communicated.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from selfexplain.distributed import gathered, rank, world_size
from selfexplain.errors import InputError, LostProcessError, first_line
from selfexplain.hypergradients import World

SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")
"""What errors of torch.distributed say, in lower case, when the other end is gone."""


@contextmanager
def lost_process_said() -> Iterator[None]:
    """Turn what torch.distributed raises when another process has ended into one sentence.

    Raises:
        LostProcessError: in its place.

    Example:
        >>> with lost_process_said():
        ...     pass
    """
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
    """Say in one sentence that several processes could not be joined to one run.

    Args:
        count: of the processes.

    Raises:
        LostProcessError: in place of what torch.distributed raises.

    Example:
        >>> with joining_said(2):
        ...     raise RuntimeError("Connection closed by peer [127.0.0.1]:29500")
        Traceback (most recent call last):
        selfexplain.errors.LostProcessError: the 2 processes of this run could not be joined ...
    """
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


@torch.no_grad()
def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with what the first process has in them.

    Example:
        >>> take_from_first([torch.zeros(2)])
    """
    if joined_processes().count > 1:
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, 0)
            tensor.copy_(whole)


def mean_numbers(numbers: Mapping[str, float]) -> dict[str, float]:
    """Means over the processes of numbers that all name alike.

    Example:
        >>> mean_numbers({"loss": 0.5})
        {'loss': 0.5}
    """
    if joined_processes().count == 1:
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
