"""Several processes as one: means, shares and agreement, through torch.distributed.

Without a process group there is one process, and nothing is communicated.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from selfexplain.multilevel import Processes


def joined_processes() -> Processes:
    """The processes of the default group, for a search over all of them.

    Example:
        >>> joined_processes().count
        1
    """
    if not (dist.is_available() and dist.is_initialized()):
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size(), _mean)


def _mean(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Means over the processes, by one transfer of all tensors together."""
    if not tensors:
        return ()
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
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


def gathered(tensor_N: Tensor) -> Tensor:
    """The processes' tensors behind each other, in order of rank; their lengths may differ.

    Args:
        tensor_N: on the CPU, (N, ...).

    Example:
        >>> gathered(torch.tensor([1, 2]))
        tensor([1, 2])
    """
    count = joined_processes().count
    if count == 1:
        return tensor_N
    parts: list[Tensor] = [tensor_N] * count
    dist.all_gather_object(parts, tensor_N)
    return torch.cat(parts)
