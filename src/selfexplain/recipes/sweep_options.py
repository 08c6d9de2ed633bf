"""How the runs of a grid are spread over processes and machines."""

import os
from dataclasses import dataclass
from typing import Literal

from selfexplain.errors import InputError
from selfexplain.limits import Count, NotNegative, check_options
from selfexplain.sweeps import InThisProcess, LocalWorkers, RayCluster, Scheduler


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """Where the runs of a grid happen; it changes none of their results.

    Raises:
        InputError: a value is out of its limits, or would not be looked at.

    Example:
        >>> SweepOptions(workers=2).apart, SweepOptions().apart
        (True, False)
    """

    workers: Count | None = None
    """Runs at a time, each in a process of its own; None for one after another in this process, or
    for as many as the cluster has room for."""
    cluster: Literal["ray"] | None = None
    """ray to spread the runs over a Ray cluster (needs the ray extra); None for this machine."""
    cluster_address: str | None = None
    """HOST:PORT of a Ray cluster, or auto for the one that this machine belongs to; None to start
    one on this machine that ends with the command."""
    gpus_per_run: NotNegative | None = None
    """GPUs that a run on a cluster asks for, such as 0.25 for four runs on each; None for one if
    there are any."""
    cpus_per_run: Count | None = None
    """Cores that a run on a cluster asks for, and its threads; None for one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, and what would be ignored."""
        check_options(self)
        if self.cluster is None:
            for name in ("cluster_address", "gpus_per_run", "cpus_per_run"):
                if getattr(self, name) is not None:
                    flag = "--" + name.replace("_", "-")
                    raise InputError(f"{flag} is for clusters; pass --cluster ray, or leave it out")

    @property
    def apart(self) -> bool:
        """Whether runs have processes of their own."""
        return self.cluster is not None or (self.workers or 1) > 1


def scheduler_of(options: SweepOptions) -> Scheduler:
    """The scheduler that the options ask for.

    Raises:
        InputError: this machine lacks what it takes, or a launcher has started several processes
            for one run.

    Example:
        >>> scheduler_of(SweepOptions(workers=1)).apart
        False
    """
    if options.apart and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "a launcher has started this command in several processes, which train one run "
            "together; leave out --workers and --cluster, or the launcher"
        )
    if options.cluster == "ray":
        return RayCluster(
            options.cluster_address,
            workers=options.workers,
            gpus_per_run=options.gpus_per_run,
            cpus_per_run=options.cpus_per_run or 1,
        )
    if options.apart:
        return LocalWorkers(options.workers or 1)
    return InThisProcess()
