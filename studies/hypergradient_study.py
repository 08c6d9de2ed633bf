"""How far differences can be trusted: each way to a hypergradient, against the exact one.

    python -m studies.hypergradient_study --data digits --out runs/hypergradients.json

trains a LeaSE search for some steps, then computes the architecture's gradient of one step in every
way, at several displacements, and compares it with the exact one (`inner_product`), as a whole and
in the part that comes through the explanations (what is left when that of `explainer_only` is
taken away). Lower precisions are compared with the exact one in float64.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from selfexplain.errors import exit_on_bad_input
from selfexplain.experiments.data import load, prepare
from selfexplain.experiments.options import DataOptions, to_dict
from selfexplain.experiments.run_dir import environment
from selfexplain.experiments.search.setup import BilevelLoader, build_search
from selfexplain.experiments.search_options import SearchConfig, Space
from selfexplain.files import write_json
from selfexplain.hypergradients import Level, Mode, unroll
from selfexplain.hypergradients.level import leaves
from selfexplain.lease.lease import LeaSE
from selfexplain.lease.search import Batch

DISPLACEMENTS = (1e-4, 1e-3, 1e-2, 3e-2)
"""Root mean square displacements of every level's variable."""
PRECISE_MODES: tuple[Mode, ...] = ("inner_product", "finite_difference")
"""Modes that are computed in each precision."""
Displacement = float | Literal["declared"] | None
"""One for all levels, each level's own, or the small one for smooth losses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """Compare ways to the hypergradient of a LeaSE search."""

    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    out: Path
    """JSON file to write."""
    space: Space = "nasbench201"
    """What a cell may be."""
    init_channels: int = 16
    """Channels of the supernet's first cells."""
    cells: int | None = None
    """Cells of the supernet."""
    batch_size: int = 64
    """Images in a step, of each half."""
    steps: tuple[int, ...] = (0, 100)
    """Steps after which to compare."""
    seed: int = 0
    """Seed of everything."""


def run_study(config: StudyConfig) -> list[dict[str, Any]]:
    """One row for each moment and way; see the module."""
    search_config = SearchConfig(
        data=config.data,
        space=config.space,
        init_channels=config.init_channels,
        cells=config.cells,
        batch_size=config.batch_size,
        seed=config.seed,
        accelerator="cpu",
    )
    search, batches = started_search(search_config)
    rows, done = [], 0
    for steps in sorted(config.steps):
        for pair in islice(batches, steps - done):
            search.step(*pair)
        done = steps
        rows += [{"steps": steps, **row} for row in compare_ways(search, *next(batches))]
    return rows


def started_search(config: SearchConfig) -> tuple[LeaSE, Iterator[tuple[Batch, Batch]]]:
    """A LeaSE search before its first step, on the CPU, and the pairs of batches of its epochs."""
    data, device = load(config.data), torch.device("cpu")
    prepared = prepare(data, config.data, config.seed)
    search = build_search(config, data, prepared.std_C, device)
    assert isinstance(search, LeaSE)
    halves = BilevelLoader(config, prepared, device)
    return search, (pair for epoch in itertools.count() for pair in halves.epoch(epoch))


def compare_ways(search: LeaSE, train_batch: Batch, val_batch: Batch) -> list[dict[str, Any]]:
    """Each way at one moment: relative error and cosine, of the whole and of the audience's part.

    Example:
        >>> from selfexplain.models import build_model
        >>> from selfexplain.spaces import build_supernet
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=2, in_channels=1, image_size=8, channels=4, cells=1
        ... )
        >>> search = LeaSE(supernet, build_model("small_cnn", num_classes=2, in_channels=1))
        >>> batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> len(compare_ways(search, batch, batch))
        17
    """

    def both(mode: Mode, displacement: Displacement, as_: Batch = train_batch) -> list[Tensor]:
        val = val_batch[0].to(as_[0].dtype), val_batch[1]
        full, alone = (
            _gradient(search, path, mode, displacement, as_, val).double()
            for path in ("full", "explainer_only")
        )
        return [full, full - alone]

    exact, exact_part = both("inner_product", None)
    share = float(exact_part.norm() / (exact - exact_part).norm())
    rows: list[dict[str, Any]] = [{"mode": "inner_product", "audience_share": share}]
    modes: tuple[Mode, ...] = ("finite_difference", "one_sided")
    for mode in modes:
        for displacement in ("declared", None, *DISPLACEMENTS):
            whole, part = both(mode, displacement)
            rows.append(
                {
                    "mode": mode,
                    "displacement": displacement,
                    "whole": _compared(whole, exact),
                    "audience_part": _compared(part, exact_part),
                }
            )
    with in_float64(search):
        reference = both("inner_product", None, (train_batch[0].double(), train_batch[1]))
    for precision, mode in itertools.product(("fp32", "bf16"), PRECISE_MODES):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found = both(mode, "declared")
        whole, part = (_compared(a, b) for a, b in zip(found, reference, strict=True))
        rows.append({"mode": mode, "precision": precision, "whole": whole, "audience_part": part})
    return rows


@contextmanager
def in_float64(search: LeaSE) -> Iterator[None]:
    """The search in float64 for the time of the block."""
    before = search.architecture, search.explained_statistics
    modules = [learner.module for learner in search.learners.values()]
    statistics = search.explained_statistics
    try:
        for module in modules:
            module.double()
        search.architecture = {name: t.double() for name, t in search.architecture.items()}
        search.explained_statistics = {
            name: t.double() if t.is_floating_point() else t for name, t in statistics.items()
        }
        yield
    finally:
        for module in modules:
            module.float()
        search.architecture, search.explained_statistics = before


def _gradient(
    search: LeaSE,
    path: Any,
    mode: Mode,
    displacement: Displacement,
    train_batch: Batch,
    val_batch: Batch,
) -> Tensor:
    """The hypergradient (all entries) of one step that is not taken."""
    options = search.options
    search.options = replace(options, gradient_path=path)
    step = search.declare(train_batch, val_batch)
    search.options = options
    levels: list[Level] = list(step.levels)
    if displacement != "declared":
        levels = [replace(level, finite_difference_step=displacement) for level in levels]
    variables = search.variables() | step.start
    found = unroll(levels, step.outer, variables, "architecture", mode).hypergradient
    return torch.cat([tensor.flatten() for tensor in leaves(found)])


def _compared(found: Tensor, exact: Tensor) -> dict[str, float]:
    return {
        "relative_error": float((found - exact).norm() / exact.norm()),
        "cosine": float(torch.cosine_similarity(found, exact, dim=0)),
    }


def main() -> None:
    """Run the study of a command line and write its rows."""
    config = tyro.cli(StudyConfig, config=(tyro.conf.HelptextFromCommentsOff,))
    rows = run_study(config)
    write_json(
        config.out,
        {
            "schema": 1,
            "config": to_dict(config, leave_out=("out",)),
            "environment": environment(torch.device("cpu")),
            "rows": rows,
        },
    )
    print(f"written: {config.out}")


if __name__ == "__main__":
    with exit_on_bad_input("hypergradient_study"):
        main()
