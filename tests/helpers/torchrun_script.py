"""What each process does that the test starts with torchrun: train twice, and search thrice."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selfexplain.cli import main
from selfexplain.experiments.options import DataOptions
from selfexplain.experiments.search import run as search_recipe
from selfexplain.experiments.search import setup as search_setup
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.lease import ArchitectureSearch

TRAIN = ["train", "--data", "digits", "--batch-size", "50", "--train-size", "200", "--epochs", "2"]
TRAIN += [
    "--validation",
    "0.07",
    "--accelerator",
    "cpu",
    "--model",
    "tests.helpers.torchrun_script:plain",
]
OBJECTIVES = ("standard", "introspective:aggregation=class")


def plain(num_classes: int, in_channels: int) -> nn.Module:
    """A network without BatchNorm, whose images do not see each other."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def train_all(folder: Path) -> None:
    for objective in OBJECTIVES:
        main([*TRAIN, "--objective", objective, "--out", str(folder / objective[:8])])


def search(out: Path, **more: Any) -> dict[str, Any]:
    data = DataOptions(data="digits", train_size=40, validation=0.03)
    size = {"batch_size": 20, "init_channels": 4, "cells": 1, "epochs": 2, "warmup_epochs": 0}
    config = SearchConfig(
        data=data, out=out, accelerator="cpu", **size, resume="on_step" not in more
    )
    return search_recipe.run_search(config, **more)


def stop_in_second_epoch(done: int, total: int) -> None:
    if done > total // 2:
        raise KeyboardInterrupt


def search_with_a_break(folder: Path) -> list[dict[str, Any]]:
    """States of the unbroken search, the broken one, and the one that continues it."""
    built: list[ArchitectureSearch] = []

    def build_and_remember(*arguments: Any) -> ArchitectureSearch:
        built.append(search_setup.build_search(*arguments))
        return built[-1]

    search_recipe.build_search = build_and_remember
    search(folder / "whole")
    try:
        search(folder / "broken", on_step=stop_in_second_epoch)
    except KeyboardInterrupt:
        torch.distributed.barrier()  # as if all were started again after all had stopped
    search(folder / "broken")
    return [search.state_dict() for search in built]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    train_all(folder)
    torch.save(search_with_a_break(folder), folder / f"rank{torch.distributed.get_rank()}.pt")
