"""What a result depends on beside its configuration: versions, hardware, commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

PACKAGES = ("selfexplain", "torch", "numpy", "lightning-fabric", "torchmetrics", "datasets")


def environment(device: torch.device) -> dict[str, object]:
    """Versions, hardware, number of threads and git commit, for the record.

    Example:
        >>> sorted(environment(torch.device("cpu")))
        ['commit', 'hardware', 'platform', 'python', 'threads', 'versions']
    """
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "commit": commit(Path(__file__).parent),
    }


def version(package: str) -> str:
    """Version of an installed package; "unknown" where it runs from its sources alone.

    Example:
        >>> version("a-package-without-metadata")
        'unknown'
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # as with PYTHONPATH=src
        return "unknown"


def hardware(device: torch.device) -> str:
    """Name of the GPU, or of the processor.

    Example:
        >>> isinstance(hardware(torch.device("cpu")), str)
        True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit(folder: Path) -> str | None:
    """Commit of the git repository that a folder lies in, "-dirty" if changed; None outside one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(  # noqa: S603 - a fixed command
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
