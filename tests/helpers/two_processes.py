"""Run a function in two processes, joined by gloo or not."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

IMPORTED = ("torch.distributed", "torch.testing", "pytest", "selfexplain.objectives")
"""What most of these functions need."""


def start_two(function: Callable[..., Any], *arguments: Any) -> None:
    """function(rank, *arguments) in each: forks of one process that has imported and done no more.

    Importing takes these processes longest; so it is done once for all of a test process.
    """
    multiprocessing.set_forkserver_preload(list(IMPORTED))
    torch.multiprocessing.start_processes(function, arguments, nprocs=2, start_method="forkserver")


def in_two_processes(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What function(rank, *arguments) returns in each: tensors and plain values."""
    start_two(_join, function, str(folder), arguments)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _join(rank: int, function: Callable[..., Any], folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.save(function(rank, *arguments), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
