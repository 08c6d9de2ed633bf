"""`make bench`: run the benchmarks, print the ratios, and write them to results/benchmarks/.

`python -m benchmarks.run search_steps` runs that one alone and keeps the other rows of the file.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import class_maps, memory, search_steps, start, steps, ways_of_stepping
from selfexplain.experiments.run_dir import environment
from selfexplain.files import read_json, write_json

BENCHMARKS = {
    "start": start,
    "class_maps": class_maps,
    "steps": steps,
    "memory": memory,
    "search_steps": search_steps,
    "ways_of_stepping": ways_of_stepping,
}


def main(names: Sequence[str]) -> None:
    """Run on the GPU if there is one, else on the CPU."""
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        sys.exit(f"there is no benchmark {unknown.pop()}; pass some of {', '.join(BENCHMARKS)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    console = Console()
    path = Path("results/benchmarks") / f"{device.type}.json"
    groups: dict[str, object] = read_json(path)["groups"] if path.exists() else {}
    for name in names or BENCHMARKS:
        console.print(f"running {name} ...")
        rows = BENCHMARKS[name].run(device)
        for row in rows:
            console.print("  " + ", ".join(f"{key}: {_short(value)}" for key, value in row.items()))
        groups[name] = {"environment": environment(device), "rows": rows}
        write_json(path, {"schema": 2, "groups": groups})
    console.print(f"written: {path}")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(sys.argv[1:])
