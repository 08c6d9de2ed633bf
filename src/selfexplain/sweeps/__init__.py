"""Many independent runs, one after another or side by side: trials and what carries them out."""

from selfexplain.sweeps.here import InThisProcess
from selfexplain.sweeps.local import LocalWorkers
from selfexplain.sweeps.messages import Done, Failed, Message, Started, Step, Waiting
from selfexplain.sweeps.ray_cluster import RayCluster
from selfexplain.sweeps.trial import Outcome, Scheduler, Trial, Watch, ignore

__all__ = [
    "Done",
    "Failed",
    "InThisProcess",
    "LocalWorkers",
    "Message",
    "Outcome",
    "RayCluster",
    "Scheduler",
    "Started",
    "Step",
    "Trial",
    "Waiting",
    "Watch",
    "ignore",
]
