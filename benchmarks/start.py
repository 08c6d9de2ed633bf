"""CPU time of the command line's answers, as multiples of importing torch.

Processes run one after another, interleaved; of each the median counts. CPU time, user and system,
so that what else the machine does matters little.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

REPEATS = 5
COMMAND = ["-m", "selfexplain"]
TRAINING = """
import sys
from pathlib import Path
from selfexplain.experiments.options import DataOptions, TrainConfig
from selfexplain.experiments.fit.train import run_training
from selfexplain.training import TrainingOptions

class FirstStepDone(Exception):
    pass

def stop(done, total):
    raise FirstStepDone

config = TrainConfig(
    data=DataOptions(data="digits"), training=TrainingOptions(epochs=1), out=Path(sys.argv[1])
)
try:
    run_training(config, on_step=stop)
except FirstStepDone:
    pass
"""
CALLS = {
    "import torch": ["-c", "import torch"],
    "from selfexplain import Introspective, class_maps": [
        "-c",
        "from selfexplain import Introspective, class_maps",
    ],
    "--help": [*COMMAND, "--help"],
    "train --help": [*COMMAND, "train", "--help"],
    "a refused option": [*COMMAND, "train", "--data", "digits", "--batch-size", "0"],
    "a refused objective": [*COMMAND, "train", "--data", "digits", "--objective", "absent"],
    "a missing folder": [*COMMAND, "compare", "--data", "folder:absent"],
    "a missing run": [*COMMAND, "export", "--run", "absent", "--out", "absent"],
    "digits, small_cnn, to the first step": ["-c", TRAINING, "OUT"],
}


def cpu_seconds(words: list[str]) -> float:
    """CPU seconds of a Python process and its own children, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = [str(Path(folder) / "out") if word == "OUT" else word for word in words]
        subprocess.run([sys.executable, *words], capture_output=True, check=False, cwd=folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(device: torch.device) -> list[dict[str, object]]:
    """Medians of CPU seconds, and their ratio to that of importing torch, on any device."""
    del device
    seconds: dict[str, list[float]] = {name: [] for name in CALLS}
    for _ in range(REPEATS):
        for name, words in CALLS.items():
            seconds[name].append(cpu_seconds(words))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    unit = medians["import torch"]
    return [
        {"process": name, "cpu_seconds": median, "import_torch": median / unit}
        for name, median in medians.items()
    ]
