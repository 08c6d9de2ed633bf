"""Networks written as plain PyTorch equal those that the library builds."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from selfexplain.spaces import (
    SPACES,
    Cell,
    Edge,
    Genotype,
    build_network,
    published_genotypes,
    random_genotype,
)
from selfexplain.spaces.standalone import source_of


def network_of(source: str) -> nn.Module:
    scope: dict[str, Any] = {}
    exec(compile(source, "network.py", "exec"), scope)
    return scope["Network"]()


def all_of(operation: str) -> Genotype:
    """Cells of DARTS in which every edge is this operation; the sources are inputs and others."""
    nodes = tuple((Edge(operation, n % 2), Edge(operation, 1 + n)) for n in range(4))
    cell = Cell(nodes, concat=(2, 3, 4, 5))
    return Genotype("darts", {"normal": cell, "reduce": cell})


def drawn(family: str, seed: int) -> Genotype:
    return random_genotype(family, torch.Generator().manual_seed(seed))


NB201: dict[str, Any] = {"channels": 4, "cells": 1}
SMALL: dict[str, Any] = {"channels": 4, "cells": 4}
CASES: dict[str, tuple[Genotype, dict[str, Any]]] = {
    **{f"nasbench201-{seed}": (drawn("nasbench201", seed), NB201) for seed in range(6)},
    **{f"darts-{seed}": (drawn("darts", seed), SMALL) for seed in range(2)},
    **{o: (all_of(o), SMALL) for o in SPACES["darts"].rules.operations if o != "none"},
    "imagenet": (drawn("darts", 5), {"channels": 4, "cells": 3, "form": "imagenet"}),
}


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", CASES)
def test_same_weights_give_the_same_bits(name: str, form: torch.memory_format) -> None:
    genotype, sizes = CASES[name]
    torch.manual_seed(0)
    size = 64 if name == "imagenet" else 16
    ours = build_network(genotype, num_classes=3, in_channels=2, image_size=size, **sizes)
    theirs = network_of(source_of(genotype, num_classes=3, in_channels=2, **sizes))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, size, size).to(memory_format=form)
    for mode in (True, False):  # in training first, so that running statistics are no longer 0, 1
        assert torch.equal(theirs.train(mode)(x), ours.train(mode)(x))
    for key, value in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[key], value), key


@pytest.mark.parametrize("name", sorted(published_genotypes()))
def test_published_cells_have_their_parameters_at_the_published_size(name: str) -> None:
    genotype = published_genotypes()[name]
    with torch.device("meta"):
        ours = build_network(genotype, num_classes=10, in_channels=3, image_size=32)
        theirs = network_of(source_of(genotype, num_classes=10, in_channels=3))
    shapes = {k: v.shape for k, v in ours.state_dict().items()}
    assert {k: v.shape for k, v in theirs.state_dict().items()} == shapes


@pytest.mark.parametrize("family", ["nasbench201", "darts"])
def test_the_file_needs_torch_alone(family: str, tmp_path: Path) -> None:
    path = tmp_path / "network.py"
    path.write_text(
        source_of(random_genotype(family), num_classes=3, in_channels=3, channels=4, cells=3)
    )
    code = (
        "import sys, network; network.Network();"
        "assert not any(name.startswith('selfexplain') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
