"""Peak memory of training steps, each objective in a process of its own."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.steps import SPECS, batch, objective


def run(device: torch.device) -> list[dict[str, object]]:
    """Peak of three steps over the standard objective's peak, the rest of the process left out."""
    peaks = {spec: in_own_process("benchmarks.memory", spec, device) for spec in SPECS}
    return [
        {
            "benchmark": f"peak memory, {spec}",
            "peak_mib": peaks[spec] / 2**20,
            "ratio": peaks[spec] / peaks["standard"],
            "to reach": "ratio <= 1.05",
        }
        for spec in SPECS
        if spec != "standard"
    ]


def in_own_process(module: str, name: str, device: torch.device) -> int:
    """What `python -m module name device` prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, name, device.type],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def training_step(spec: str, device: torch.device) -> Callable[[], object]:
    """A step of an objective, with its optimizer."""
    made = objective(spec).to(device)
    x_BCHW, y_B, _ = batch(device)
    optimizer = torch.optim.SGD(made.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        made(x_BCHW, y_B)["loss"].backward()
        optimizer.step()

    return step


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Bytes by which three steps raise the peak above what the process holds before them."""
    before = _held(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() - before
    return _peak() - before


def _peak() -> int:
    """Highest resident bytes since the program began (Linux).

    Not getrusage's figure, which a child process inherits from its parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _held(device: torch.device) -> int:
    """Bytes held now, on the device or by the process (Linux)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    device = torch.device(sys.argv[2])
    print(peak_bytes(training_step(sys.argv[1], device), device))
