"""What every run needs around it: devices and processes, loggers, a message if memory runs out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from selfexplain.distributed import joining_said
from selfexplain.errors import InputError, OutOfMemoryError, first_line
from selfexplain.experiments.options import DeviceOptions, RunConfig, devices_and_machines, to_dict
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.training import TrainingOptions
from selfexplain.training.loggers import Logger, check_installed, opened
from selfexplain.training.loop import FABRIC_PRECISION
from selfexplain.training.optimizers import check_optimizer

if TYPE_CHECKING:
    from lightning_fabric import Fabric


# A GPU whose memory does not suffice, said in one sentence.


SIGNS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What errors of CUDA and its libraries say when there is no memory left."""


@contextmanager
def reraise_oom(remedy: str) -> Iterator[None]:
    """Turn what PyTorch raises when a GPU runs out of memory into an `OutOfMemoryError`.

    Args:
        remedy: what to pass instead.

    Example:
        >>> with reraise_oom("pass a smaller --batch-size"):
        ...     raise RuntimeError("CUDA error: out of memory")
        Traceback (most recent call last):
        ...
        selfexplain.errors.OutOfMemoryError: the GPU is out of memory; pass a smaller --batch-size
    """
    try:
        yield
    except RuntimeError as error:  # OutOfMemoryError is one, too
        if isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS):
            raise OutOfMemoryError(f"the GPU is out of memory; {remedy}") from error
        raise


# The devices of a run, and its processes on them.


def check_device(device: DeviceOptions, training: TrainingOptions) -> None:
    """Raise InputError for a missing device or optimizer, and for fp16 without a GPU."""
    check_optimizer(training.optimizer)
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device.accelerator, True):
        raise InputError(
            f"accelerator {device.accelerator} cannot be used here: PyTorch finds none; "
            "pass --accelerator cpu"
        )
    if training.precision == "fp16" and (device.accelerator == "cpu" or not any(here.values())):
        raise InputError("precision fp16 needs a GPU; pass --precision bf16 or fp32")


def launch(device: DeviceOptions, training: TrainingOptions) -> Fabric:
    """A Fabric for these devices, launched: with several devices, one process each.

    Where torchrun started this process, Fabric joins it to the others.

    Raises:
        InputError: the machine has no such devices, or torchrun started another number, or the
            devices cannot do what the training asks for.
        LostProcessError: another process of the run ended before all had met.

    Example:
        >>> launch(DeviceOptions(accelerator="cpu"), TrainingOptions()).world_size
        1
    """
    check_device(device, training)
    # Here, as it takes longer to import than torch: refusals come before.
    with by_version_alone("torchmetrics"):
        from lightning_fabric import Fabric
        from lightning_fabric.utilities.exceptions import MisconfigurationException

    devices, machines = devices_and_machines(device)
    try:
        with reraise_oom("let fewer runs share it (--workers), or wait for the others"):
            fabric = Fabric(
                accelerator=device.accelerator,
                devices=devices,
                num_nodes=machines,
                precision=FABRIC_PRECISION[training.precision],  # type: ignore[arg-type]
            )
            if training.sync_batchnorm and devices * machines > 1:
                _check_synchronizable(fabric.device)
            with joining_said(devices * machines):
                fabric.launch()
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise InputError(
            f"accelerator {device.accelerator} with {devices} device(s) and "
            f"{training.precision} cannot be used here ({first_line(error)}); "
            "pass --accelerator cpu --devices 1 --precision fp32"
        ) from error
    if training.cuda_graph and (fabric.device.type != "cuda" or fabric.world_size > 1):
        raise InputError(
            f"cuda_graph needs one CUDA device, and this is {fabric.world_size} x "
            f"{fabric.device.type}; leave out --cuda-graph"
        )
    return fabric


def _check_synchronizable(device: torch.device) -> None:
    """Refuse a device on which torch's SyncBatchNorm does not run, before processes wait for it."""
    if device.type != "cuda":
        raise InputError(
            f"sync_batchnorm with several processes needs GPUs, because torch's SyncBatchNorm does "
            f"not run on {device.type}; leave out --sync-batchnorm, and each process normalises "
            "its own part of a batch"
        )


@contextmanager
def by_version_alone(package: str) -> Iterator[None]:
    """Let imports in this block see a package's version without importing the package.

    When Fabric is imported it asks whether torchmetrics, where there is one (Lightning brings it),
    is of version 1 or later, and imports the whole of it for that, with transformers and pandas:
    seconds, before anything is trained, for what no run uses.
    Afterwards an import gets the package itself.
    """
    spec = importlib.util.find_spec(package) if package not in sys.modules else None
    if spec is None:  # imported already, or not installed
        yield
        return
    stand_in = importlib.util.module_from_spec(spec)  # not executed
    vars(stand_in)["__version__"] = importlib.metadata.version(package)
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(package) is stand_in:
            del sys.modules[package]


@contextmanager
def logged(config: RunConfig | SearchConfig, *, first: bool) -> Iterator[list[Logger]]:
    """The loggers of a run while it lasts, with its configuration as hyper-parameters.

    Args:
        config: of the run.
        first: whether this is the first of the run's processes; the others get no loggers.

    Raises:
        InputError: a logger is not installed, which every process finds, or cannot be opened.

    Example:
        >>> from selfexplain.experiments.options import DataOptions, TrainConfig
        >>> with logged(TrainConfig(data=DataOptions(data="digits")), first=True) as loggers:
        ...     loggers
        []
    """
    check_installed(config.loggers)
    hyperparameters = to_dict(config, leave_out=("out", "resume", "tensorboard"))
    with opened(config.loggers if first else (), config.out, hyperparameters) as loggers:
        yield loggers
