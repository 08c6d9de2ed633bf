"""How the cores and GPUs of this machine are shared among workers."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def worker_environment(
    place: int, workers: int, gpus: list[str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment variables of a worker.

    Every worker gets its share of the cores as threads, unless OMP_NUM_THREADS is set, and one of
    the GPUs; workers that outnumber the GPUs share them evenly.

    Args:
        place: of the worker, from 0.
        workers: how many there are.
        gpus: what CUDA_VISIBLE_DEVICES calls them.
        inherited: the variables of this process.

    Example:
        >>> worker_environment(3, 4, ["0", "1"], {"OMP_NUM_THREADS": "2"})["CUDA_VISIBLE_DEVICES"]
        '1'
    """
    variables = {"OMP_NUM_THREADS": str(max(1, cores() // workers)), **inherited}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    # A worker finds the modules that this process would find, and no others first.
    variables["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in sys.path)
    return variables


def cores() -> int:
    """Cores that this process may use.

    Example:
        >>> cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus_here(inherited: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES calls them.

    Example:
        >>> gpus_here({"CUDA_VISIBLE_DEVICES": ""})
        []
    """
    import torch  # not above: the command line reads the options of sweeps without it

    allowed = inherited.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if allowed is None:
        return [str(i) for i in range(count)]
    return [name.strip() for name in allowed.split(",") if name.strip()][:count]
