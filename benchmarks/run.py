"""`make bench`: run every benchmark, print the ratios, and write them to results/benchmarks/."""

from pathlib import Path

import torch
from rich.console import Console

from benchmarks import class_maps, memory, search_steps, steps
from selfexplain.recipes.environment import environment
from selfexplain.training.files import write_json


def main() -> None:
    """Run on the GPU if there is one, else on the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    console = Console()
    rows: list[dict[str, object]] = []
    for module in (class_maps, steps, memory, search_steps):
        console.print(f"running {module.__name__} ...")
        for row in module.run(device):
            rows.append(row)
            console.print(
                "  "
                + ", ".join(
                    f"{k}: {v:.3g}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()
                )
            )
    path = Path("results/benchmarks") / f"{device.type}.json"
    write_json(path, {"schema": 1, "environment": environment(device), "rows": rows})
    console.print(f"written: {path}")


if __name__ == "__main__":
    main()
