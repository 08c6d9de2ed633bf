"""A truth table of one's own: every cell of the space tiny201, trained with several seeds.

    python -m studies.tiny_nas --data parquet:data/cifar100 --image-size 16 --out results/tiny-nas

trains all 125 cells alike on a few real images and writes `table.parquet`, which `lookup` and
`load_table` read: mean validation and test accuracy of each cell, the deviation over its seeds, its
parameters and multiply-adds. `trainings.jsonl` has a line for each finished training; the same
command continues.
"""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import tyro
from studies.explain_better import Parts, accuracy, fit, read_parts, side_by_side
from studies.json_log import JSONLog
from torch import Tensor

from selfexplain.errors import exit_on_bad_input
from selfexplain.experiments.options import DataOptions, to_dict
from selfexplain.experiments.run_dir import environment
from selfexplain.files import write_json
from selfexplain.spaces import (
    FAMILIES,
    build_network,
    count_multiply_adds,
    count_parameters,
    from_string,
)
from selfexplain.spaces.table import BenchmarkTable, MeasuredCell, save_table


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyConfig:
    """Train every cell of the space tiny201."""

    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    out: Path
    """Folder for trainings.jsonl, table.parquet and about.json."""
    init_channels: int = 8
    """Channels of the first stage."""
    cells: int = 1
    """Cells of each stage."""
    learn: int = 5000
    """Images to train on."""
    held_out: int = 2500
    """Other training images, for the validation accuracy."""
    test: int = 10000
    """Test images."""
    epochs: int = 10
    """Epochs of each training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights and order; the images are the same."""
    device: str = "cpu"
    """Where everything is computed."""
    workers: int = 1
    """Processes that train side by side, of one thread each."""


def all_cells() -> Iterator[str]:
    """The 125 cells, as text.

    Example:
        >>> len(set(all_cells())), next(all_cells())
        (125, '|none~0|+|none~0|none~1|')
    """
    operations = FAMILIES["tiny201"].operations
    for first, second, third in itertools.product(operations, repeat=3):
        yield f"|{first}~0|+|{second}~0|{third}~1|"


def run_study(config: TinyConfig) -> BenchmarkTable:
    """Train what is not trained yet; the table."""
    config.out.mkdir(parents=True, exist_ok=True)
    log = JSONLog(config.out / "trainings.jsonl")
    sizes_of_parts = (config.learn, 0, config.held_out)
    parts = read_parts(config.data, sizes_of_parts, config.test, 0, config.device)
    # Seed by seed, so that what was finished when it is stopped is a whole table of fewer seeds.
    wanted = [
        {"arch": arch, "seed": seed}
        for seed, arch in itertools.product(config.seeds, all_cells())
        if log.find({"arch": arch, "seed": seed}) is None
    ]
    for row in side_by_side(partial(train_cell, config, parts), wanted, config.workers):
        log.add(row)
    sizes = network_sizes(config, parts)
    return BenchmarkTable(_measured(arch, config, log, sizes) for arch in all_cells())


def network_sizes(config: TinyConfig, parts: Parts) -> dict[str, Any]:
    """What `build_network` is told of every cell's network."""
    return {
        "num_classes": parts.num_classes,
        "in_channels": parts.learn.x_NCHW.shape[1],
        "image_size": parts.learn.x_NCHW.shape[-1],
        "channels": config.init_channels,
        "cells": config.cells,
    }


def train_cell(config: TinyConfig, parts: Parts, wanted: dict[str, Any]) -> dict[str, Any]:
    """Train the cell `arch` with the seed `seed`; a line of the log."""
    x_NCHW, y_N = parts.learn.x_NCHW, parts.learn.y_N
    torch.manual_seed(wanted["seed"])
    network = build_network(from_string(wanted["arch"]), **network_sizes(config, parts))
    network.to(config.device)

    def losses(index_B: Tensor) -> Tensor:
        return F.cross_entropy(network(x_NCHW[index_B]), y_N[index_B])

    fit(network, losses, len(x_NCHW), config.epochs, wanted["seed"])
    scores = {"validation": parts.validation, "test": parts.test}
    return wanted | {name: accuracy(network, part) for name, part in scores.items()}


def _measured(arch: str, config: TinyConfig, log: JSONLog, sizes: dict[str, Any]) -> MeasuredCell:
    rows = [row for row in log.rows if row["arch"] == arch and row["seed"] in config.seeds]
    counts = (config.held_out, config.test)
    both = [(row["validation"] * counts[0] + row["test"] * counts[1]) / sum(counts) for row in rows]
    network = build_network(from_string(arch), **sizes)
    shape = (sizes["in_channels"], sizes["image_size"], sizes["image_size"])
    return MeasuredCell(
        arch=arch,
        seeds=len(rows),
        validation=statistics.fmean(row["validation"] for row in rows),
        test=statistics.fmean(row["test"] for row in rows),
        seed_std=statistics.stdev(both) if len(both) > 1 else None,
        params_m=count_parameters(network) / 1e6,
        flops_m=count_multiply_adds(network, shape) / 1e6,
    )


def main() -> None:
    """Run the study of a command line and write its table."""
    config = tyro.cli(TinyConfig, config=(tyro.conf.HelptextFromCommentsOff,))
    with exit_on_bad_input("studies.tiny_nas"):
        save_table(run_study(config), config.out / "table.parquet")
        about = {"schema": 1, "config": to_dict(config, leave_out=("out", "workers"))}
        about["environment"] = environment(torch.device(config.device))
        write_json(config.out / "about.json", about)


if __name__ == "__main__":
    main()
