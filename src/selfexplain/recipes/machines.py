"""Which processes take part in a run: those that torchrun started, or those that the run starts."""

import os

from selfexplain.errors import InputError
from selfexplain.recipes.options import DeviceOptions


def devices_and_machines(device: DeviceOptions) -> tuple[int, int]:
    """Devices of each machine, one process each, and the number of machines.

    Where torchrun started the processes, both are its numbers.

    Raises:
        InputError: `devices` contradicts torchrun, or the machines have unequal numbers of them.

    Example:
        >>> devices_and_machines(DeviceOptions(devices=4))
        (4, 1)
    """
    if not started_by_torchrun():
        return device.devices, 1
    here, everywhere = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if device.devices not in (1, here):
        raise InputError(
            f"torchrun started {here} process(es) on this machine, one for each device, but "
            f"devices is {device.devices}; leave out --devices, or start as many"
        )
    if everywhere % here:
        raise InputError(
            f"torchrun started {here} process(es) on this machine and {everywhere} on all; start "
            "as many on each machine"
        )
    return here, everywhere // here


def process_count(device: DeviceOptions) -> int:
    """Number of processes of a run, on all machines.

    Example:
        >>> process_count(DeviceOptions(devices=2))
        2
    """
    devices, machines = devices_and_machines(device)
    return devices * machines


def started_by_torchrun() -> bool:
    """Whether torchrun started this process.

    Example:
        >>> started_by_torchrun()
        False
    """
    # What torch.distributed.is_torchelastic_launched looks at, without its seconds of import.
    return "TORCHELASTIC_RUN_ID" in os.environ


def first_process() -> bool:
    """Whether this is the process that speaks and writes; launchers number the processes.

    torchrun numbers those of all machines in RANK; ours, on one machine, in LOCAL_RANK alone.

    Example:
        >>> first_process()
        True
    """
    rank = "RANK" if started_by_torchrun() else "LOCAL_RANK"
    return int(os.environ.get(rank, "0")) == 0
