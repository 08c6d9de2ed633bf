"""Many independent runs, one after another or in parallel: trials and their schedulers."""

from selfexplain.launchers.local import LocalWorkers
from selfexplain.launchers.ray import RayCluster
from selfexplain.launchers.store import Store, Stored
from selfexplain.launchers.trials import (
    Done,
    Failed,
    Message,
    Outcome,
    Scheduler,
    Serial,
    Started,
    StepsDone,
    Trial,
    Waiting,
    Watch,
    ignore,
)

__all__ = [
    "Done",
    "Failed",
    "LocalWorkers",
    "Message",
    "Outcome",
    "RayCluster",
    "Scheduler",
    "Serial",
    "Started",
    "StepsDone",
    "Store",
    "Stored",
    "Trial",
    "Waiting",
    "Watch",
    "ignore",
]
