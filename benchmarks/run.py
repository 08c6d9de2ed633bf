"""`make bench`: run the benchmarks, print the ratios, and write them to results/benchmarks/.

`python -m benchmarks.run search_steps` runs that one alone and keeps the other rows of the file;
with `--only "lease, exact"` that step alone, beside the passes that it is compared with.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from selfexplain.experiments.run_dir import environment
from selfexplain.files import read_json, write_json

BENCHMARKS = ("start", "class_maps", "steps", "memory", "search_steps", "ways_of_stepping")


def main(names: Sequence[str], only: Sequence[str] = ()) -> None:
    """Run on the GPU if there is one, else on the CPU."""
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        sys.exit(f"there is no benchmark {unknown.pop()}; pass some of {', '.join(BENCHMARKS)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    console = Console()
    path = Path("results/benchmarks") / f"{device.type}.json"
    groups: dict[str, Any] = read_json(path)["groups"] if path.exists() else {}
    if only and (missing := set(only) - measured_steps(groups)):
        sys.exit(
            f"{path} has no step {missing.pop()!r} of a search to measure anew; pass some of "
            f"{'; '.join(sorted(measured_steps(groups)))}; or leave out --only to measure all"
        )
    for name in names or BENCHMARKS:
        console.print(f"running {name} ...")
        # Each alone imports what it is compared with, which need not be installed for the others.
        rows: list[dict[str, object]] = []
        group: dict[str, object] = {"environment": environment(device), "rows": rows}
        run = importlib.import_module(f"benchmarks.{name}").run
        for row in run(device, only) if only else run(device):
            console.print("  " + ", ".join(f"{key}: {_short(value)}" for key, value in row.items()))
            rows.append(row)
            if only:  # written at the end, between the others
                continue
            # Row by row: those of searches on a GPU take minutes, and may be broken off.
            groups[name] = {**group, "complete": False}
            write_json(path, {"schema": 2, "groups": groups})
        groups[name] = merged(groups[name], group, only) if only else group
        write_json(path, {"schema": 2, "groups": groups})
    console.print(f"written: {path}")


def measured_steps(groups: dict[str, Any]) -> set[str]:
    """The searches whose peak memory stands in the file: all that `--only` can name."""
    rows = groups.get("search_steps", {"rows": []})["rows"]
    peaks = (str(row["benchmark"]) for row in rows)
    return {p.partition(", ")[2] for p in peaks if "peak memory" in p} - {"our pass"}


def merged(old: dict[str, Any], new: dict[str, Any], only: Sequence[str]) -> dict[str, Any]:
    """The old rows, but for those measured anew, which say where and of what code."""
    fresh = {
        row["benchmark"]: {**row, "environment": new["environment"]}
        for row in new["rows"]
        if row["benchmark"].partition(", ")[2] in only
    }
    return {**old, "rows": [fresh.get(row["benchmark"], row) for row in old["rows"]]}


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(BENCHMARKS))
    parser.add_argument("--only", action="append", default=[], metavar="STEP", help="search_steps")
    given = parser.parse_args()
    if given.only and given.names != ["search_steps"]:
        sys.exit("--only names steps of search_steps; pass search_steps as the only benchmark")
    main(given.names, given.only)
