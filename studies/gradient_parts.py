"""What the architecture is told, and by whom: the parts of LeaSE's gradient along a search.

    python -m studies.gradient_parts --data digits --table nasbench201.parquet --out parts.json

trains a LeaSE search and, at some moments, takes the architecture's gradient on many pairs of
batches without a step: the *direct* part (the explainer's validation loss), the *audience's* (its
validation loss, through the explanations), and the audience's with each explanation's pixels
*shuffled*, which is the control. Of each part it says the size, the signal-to-noise ratio over
batches, the cosine to the direct one, and the rank correlation of the step that it asks for with
what each operation is worth on each edge by the table of NAS-Bench-201.

Shape suffixes: N batches, A entries of the architecture, E edges, O operations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from studies.hypergradient_study import started_search
from torch import Tensor

from selfexplain.errors import InputError, exit_on_bad_input
from selfexplain.experiments.options import DataOptions, to_dict
from selfexplain.experiments.run_dir import environment
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.files import write_json
from selfexplain.hypergradients import unroll_each
from selfexplain.hypergradients.level import leaves
from selfexplain.lease import LeaSE, LeaSEOptions
from selfexplain.lease.search import Batch
from selfexplain.spaces import FAMILIES, from_string
from selfexplain.spaces.supernet import edges_of
from selfexplain.spaces.table import BenchmarkTable, load_table


@dataclass(frozen=True, kw_only=True, slots=True)
class PartsConfig:
    """Take LeaSE's gradient apart along a search."""

    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    out: Path
    """JSON file to write; a table in Markdown lies beside it."""
    table: str
    """The benchmark, as for lookup."""
    init_channels: int = 8
    """Channels of the supernet's first cells."""
    cells: int = 1
    """Cells of each stage of the supernet."""
    batch_size: int = 64
    """Images in a step, of each half."""
    architecture_lr: float = 0.05
    """Learning rate of the architecture."""
    steps: tuple[int, ...] = (0, 50, 200)
    """Steps of the search after which gradients are taken."""
    batches: int = 64
    """Pairs of batches at each moment."""
    seed: int = 0
    """Seed of everything."""


def worth_of_operations(table: BenchmarkTable) -> Tensor:
    """Mean accuracy of the cells with an operation on an edge, over the edge's mean: (E, O).

    Edges and operations are in the order of an architecture's rows and columns.
    """
    operations = FAMILIES["nasbench201"].operations
    edges = {edge: row for row, edge in enumerate(edges_of("nasbench201"))}
    total_EO = torch.zeros(len(edges), len(operations), dtype=torch.float64)
    count_EO = torch.zeros_like(total_EO)
    for arch, measured in table.cells.items():
        for number, node in enumerate(from_string(arch).cells["cell"].nodes, 1):
            for edge in node:
                at = edges[edge.source, number], operations.index(edge.operation)
                total_EO[at] += measured.test
                count_EO[at] += 1
    if (count_EO == 0).any():
        raise InputError("the table lacks an operation on an edge; pass one of all cells")
    mean_EO = total_EO / count_EO
    return mean_EO - mean_EO.mean(1, keepdim=True)


def parts_of(search: LeaSE, train_batch: Batch, val_batch: Batch) -> dict[str, Tensor]:
    """Direct, audience's and shuffled audience's gradient (A,) of a step that is not taken."""
    options = search.options
    found: dict[str, Tensor] = {}
    for control in ("none", "shuffled_delta"):
        search.options = replace(options, control=control, coupling="normalised")
        step = search.declare(train_batch, val_batch)
        assert step.audience_outer is not None
        assert step.mode is not None
        outers = [step.audience_outer] if found else [step.outer, step.audience_outer]
        variables = search.variables() | step.start
        unrolled = unroll_each(step.levels, outers, variables, "architecture", step.mode)
        names = ("shuffled",) if found else ("direct", "audience")
        for name, one in zip(names, unrolled, strict=True):
            found[name] = torch.cat([t.flatten() for t in leaves(one.hypergradient)]).double()
        for learner in search.learners.values():
            learner.take_statistics()
    search.options = options
    return found


def described(parts_NA: dict[str, Tensor], worth_EO: Tensor) -> dict[str, dict[str, float]]:
    """Size, signal to noise, cosine to the direct part and rank correlation of each part.

    Signal to noise is the size of the mean over the root mean square distance of a batch's gradient
    from it. The rank correlation is Spearman's, of minus the mean gradient with the worth; both are
    centred on each edge, where a softmax has one number to spare.

    Example:
        >>> parts = {"direct": torch.randn(8, 6, dtype=torch.float64)}
        >>> sorted(described(parts, torch.randn(2, 3, dtype=torch.float64))["direct"])
        ['cosine_to_direct', 'norm', 'rank_correlation', 'signal_to_noise']
    """
    from scipy.stats import spearmanr  # here, as it takes a second to import

    found = {}
    direct_A = parts_NA["direct"].mean(0)
    for name, gradient_NA in parts_NA.items():
        mean_A = gradient_NA.mean(0)
        noise = (gradient_NA - mean_A).square().sum(1).mean().sqrt()
        step_EO = -mean_A.reshape(worth_EO.shape)
        step_EO = step_EO - step_EO.mean(1, keepdim=True)
        found[name] = {
            "norm": float(gradient_NA.norm(dim=1).mean()),
            "signal_to_noise": float(mean_A.norm() / noise),
            "cosine_to_direct": float(torch.cosine_similarity(mean_A, direct_A, dim=0)),
            "rank_correlation": float(spearmanr(step_EO.flatten(), worth_EO.flatten()).statistic),
        }
    return found


def run_study(config: PartsConfig, table: BenchmarkTable) -> Iterator[dict[str, Any]]:
    """One row for each moment: steps, and what `described` says."""
    worth_EO = worth_of_operations(table)
    search_config = SearchConfig(
        data=config.data,
        init_channels=config.init_channels,
        cells=config.cells,
        batch_size=config.batch_size,
        options=LeaSEOptions(),
        seed=config.seed,
        accelerator="cpu",
    )
    rates = replace(search_config.rates, architecture_lr=config.architecture_lr)
    search_config = replace(search_config, rates=rates)
    search, batches = started_search(search_config)
    done = 0
    for steps in sorted(config.steps):
        for pair in islice(batches, steps - done):
            search.step(*pair)
        done = steps
        each = [parts_of(search, *pair) for pair in islice(batches, config.batches)]
        parts_NA = {name: torch.stack([one[name] for one in each]) for name in each[0]}
        yield {"steps": steps, "parts": described(parts_NA, worth_EO)}


def markdown(rows: list[dict[str, Any]]) -> str:
    """A row for each moment and part."""
    lines = [
        "| steps | part | size | signal to noise | cosine to direct | rank correlation |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        for name, part in row["parts"].items():
            numbers = (
                f"{part['norm']:.2e} | {part['signal_to_noise']:.2f} "
                f"| {part['cosine_to_direct']:+.2f} | {part['rank_correlation']:+.2f}"
            )
            lines.append(f"| {row['steps']} | {name} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the study of a command line and write its rows."""
    config = tyro.cli(PartsConfig, config=(tyro.conf.HelptextFromCommentsOff,))
    with exit_on_bad_input("studies.gradient_parts"):
        rows = list(run_study(config, load_table(config.table)))
        config.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            config.out,
            {
                "schema": 1,
                "config": to_dict(config, leave_out=("out",)) | {"table": Path(config.table).name},
                "environment": environment(torch.device("cpu")),
                "rows": rows,
            },
        )
        config.out.with_suffix(".md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
