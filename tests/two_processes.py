"""Run a function in two processes that are joined by gloo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def in_two_processes(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What function(rank, *arguments) returns in each: tensors and plain values."""
    torch.multiprocessing.spawn(_join, args=(function, str(folder), arguments), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _join(rank: int, function: Callable[..., Any], folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.save(function(rank, *arguments), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
