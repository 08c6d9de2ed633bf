"""Are the cells that LeaSE's authors published better than those of their bases, or than random?

    python -m studies.published_cells --data parquet:data/cifar100 --image-size 16 \
        --train-size 5000 --init-channels 8 --cells 8 --epochs 6 --batch-size 64 \
        --out results/lease/published

A test of the paper's claim that needs no search. The published cells of DARTS, P-DARTS and
PC-DARTS, five of LeaSE, and random cells whose networks have about as many parameters are trained
from scratch by one recipe, with the same seeds. Each cell of LeaSE is compared with the base that
it was searched on top of. `runs/` has a folder for each training; the same command continues.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from selfexplain.errors import InputError, exit_on_bad_input
from selfexplain.evaluation.statistics import holm, paired_difference
from selfexplain.experiments.compare.grid import run_all
from selfexplain.experiments.data import load
from selfexplain.experiments.options import (
    DataOptions,
    DeviceOptions,
    RetrainConfig,
    SweepOptions,
    scheduler_of,
    to_dict,
)
from selfexplain.experiments.run_dir import environment
from selfexplain.experiments.runtime import launch
from selfexplain.files import write_json
from selfexplain.launchers import ignore
from selfexplain.report.tables import with_spread
from selfexplain.spaces import build_network, count_parameters, random_genotype, to_string
from selfexplain.spaces.genotype_io import published_genotypes
from selfexplain.training import TrainingOptions

BASES = ("DARTS_V2", "PDARTS", "PC_DARTS_cifar")
BASE_OF = {
    "LeaSE_c10_darts": "DARTS_V2",
    "LeaSE_c100_darts": "DARTS_V2",
    "LeaSE_c100_darts2": "DARTS_V2",
    "LeaSE_c10_pdarts": "PDARTS",
    "LeaSE_c10_pdarts2": "PDARTS",
}
"""Published cell of LeaSE -> that of the search it was built on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedConfig:
    """Train published cells and random ones alike."""

    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    out: Path
    """Folder for the runs, results.json and table.md."""
    training: Annotated[TrainingOptions, tyro.conf.arg(name="")] = field(
        default_factory=TrainingOptions
    )
    init_channels: int = 36
    """Channels of the first cells."""
    cells: int = 20
    """Cells of a network."""
    auxiliary: float = 0.0
    """Weight of the second head; 0.4 as published."""
    drop_path: float = 0.0
    """Share of operations that are left out at the end; 0.2 as published."""
    random_cells: int = 5
    """How many random cells."""
    tolerance: float = 0.05
    """How far a random network's parameters may be from the mean of the published ones."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the trainings; the random cells are drawn with the first."""
    device: Annotated[DeviceOptions, tyro.conf.arg(name="")] = field(default_factory=DeviceOptions)
    sweep: Annotated[SweepOptions, tyro.conf.arg(name="")] = field(default_factory=SweepOptions)


def parameters_of(genotype: Any, channels: int, cells: int) -> int:
    """Parameters of a cell's network for 100 classes and images of 32 pixels."""
    network = build_network(
        genotype, num_classes=100, in_channels=3, image_size=32, channels=channels, cells=cells
    )
    return count_parameters(network)


def random_cells_like(wanted: float, config: PublishedConfig) -> list[str]:
    """Random cells whose networks have about the wanted number of parameters, as text."""
    generator = torch.Generator().manual_seed(config.seeds[0])

    def alike() -> Iterator[str]:
        for _ in range(200 * config.random_cells):
            genotype = random_genotype("darts", generator)
            parameters = parameters_of(genotype, config.init_channels, config.cells)
            if abs(parameters / wanted - 1) <= config.tolerance:
                yield to_string(genotype)

    found = list(islice(alike(), config.random_cells))
    if len(found) < config.random_cells:
        raise InputError(
            f"only {len(found)} random cells are within {config.tolerance:.0%} of {wanted:.0f} "
            "parameters; pass a larger --tolerance"
        )
    return found


def cells_of(config: PublishedConfig) -> dict[str, str]:
    """Name -> cell as text, of all that are trained."""
    published = published_genotypes()
    cells = {name: to_string(published[name]) for name in (*BASES, *BASE_OF)}
    sizes = [parameters_of(published[name], config.init_channels, config.cells) for name in cells]
    alike = random_cells_like(statistics.fmean(sizes), config)
    return cells | {f"random_{number}": cell for number, cell in enumerate(alike)}


def run_study(config: PublishedConfig) -> dict[str, Any]:
    """Train what is not trained yet; accuracies, and what they say."""
    cells = cells_of(config)
    trainings = {
        (name, seed): RetrainConfig(
            data=config.data,
            genotype=cell,
            training=config.training,
            device=config.device,
            init_channels=config.init_channels,
            cells=config.cells,
            auxiliary=config.auxiliary,
            drop_path=config.drop_path,
            seed=seed,
            out=config.out / "runs" / f"{name}-seed{seed}",
            resume=True,
        )
        for seed in config.seeds
        for name, cell in cells.items()
    }
    scheduler = scheduler_of(config.sweep)
    data = None if scheduler.isolated else load(config.data)
    done = run_all(list(trainings.values()), scheduler, ignore, data=data)
    result = dict(zip(trainings, done, strict=True))
    results = {name: [result[name, seed] for seed in config.seeds] for name in cells}
    accuracy = {name: [run["accuracy"] for run in runs] for name, runs in results.items()}
    rows = [
        {
            "cell": name,
            "genotype": cells[name],
            "accuracy": accuracy[name],
            "parameters": runs[0]["parameters"],
            "multiply_adds": runs[0]["multiply_adds"],
        }
        for name, runs in results.items()
    ]
    return {"rows": rows, "comparisons": compared(accuracy)}


def compared(accuracy: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Paired differences over seeds: each cell of LeaSE to its base, and groups to each other.

    Args:
        accuracy: of each cell, by seed, in per cent.
    """
    groups = {
        "mean of the LeaSE cells": list(BASE_OF),
        "mean of their bases": [BASE_OF[name] for name in BASE_OF],
        "mean of the random cells": [name for name in accuracy if name.startswith("random_")],
    }
    by_seed = {
        group: [statistics.fmean(run) for run in zip(*(accuracy[n] for n in names), strict=True)]
        for group, names in groups.items()
    }
    lease, bases, random = groups
    pairs = [(name, base, accuracy[name], accuracy[base]) for name, base in BASE_OF.items()]
    pairs += [(a, b, by_seed[a], by_seed[b]) for a, b in ((lease, bases), (lease, random))]
    rows = [
        {"cell": cell, "against": base}
        | asdict(paired_difference(own, other, comparisons=len(pairs)))
        for cell, base, own, other in pairs
    ]
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_adjusted"] = adjusted
    return rows


def markdown(found: Mapping[str, Any]) -> str:
    """Two tables: the cells, best first, and the differences."""
    lines = ["| cell | test % | parameters, thousands |", "| --- | ---: | ---: |"]
    for row in sorted(found["rows"], key=lambda row: -statistics.fmean(row["accuracy"])):
        several = row["accuracy"]
        spread = statistics.stdev(several) if len(several) > 1 else None
        accuracy = with_spread(statistics.fmean(several), spread, 2)
        lines.append(f"| {row['cell']} | {accuracy} | {row['parameters'] / 1000:.1f} |")
    lines += ["", "| cell | against | difference, points | 95 % interval | p, Holm |"]
    lines.append("| --- | --- | ---: | ---: | ---: |")
    for row in found["comparisons"]:
        low_high = row["ci95"]
        interval = "" if low_high is None else f"{low_high[0]:+.2f} to {low_high[1]:+.2f}"
        p = "" if row["p_adjusted"] is None else f"{row['p_adjusted']:.2f}"
        lines.append(
            f"| {row['cell']} | {row['against']} | {row['mean']:+.2f} | {interval} | {p} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the study of a command line and write its tables."""
    config = tyro.cli(PublishedConfig, config=(tyro.conf.HelptextFromCommentsOff,))
    with exit_on_bad_input("studies.published_cells"):
        found = run_study(config)
        about = {
            "schema": 1,
            "config": to_dict(config, leave_out=("out", "sweep")),
            "environment": environment(launch(config.device, config.training).device),
        }
        write_json(config.out / "results.json", {**about, **found})
        (config.out / "table.md").write_text(markdown(found))
        print(markdown(found))


if __name__ == "__main__":
    main()
