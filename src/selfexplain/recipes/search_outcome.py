"""What a search found: how its cells look, and whether they collapsed into skip connections."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfexplain.spaces import FAMILIES, Genotype, save_genotype
from selfexplain.writing import atomic_file


def skip_connections(genotype: Genotype) -> tuple[int, int]:
    """Number of skip connections, and of edges, of the cell (darts: the normal one).

    Example:
        >>> from selfexplain.spaces import from_string
        >>> skip_connections(from_string(
        ...     "|skip_connect~0|+|none~0|skip_connect~1|+|none~0|none~1|none~2|"
        ... ))
        (2, 6)
    """
    first = next(iter(FAMILIES[genotype.family].cells))
    operations = [edge.operation for node in genotype.cells[first].nodes for edge in node]
    return operations.count("skip_connect"), len(operations)


def collapsed(genotype: Genotype) -> bool:
    """Whether more than half of the edges are skip connections.

    Of the cells of NAS-Bench-201, those with four of six or more lose many points of accuracy.
    """
    skips, edges = skip_connections(genotype)
    return 2 * skips > edges


def operation_weights(architecture: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cell -> softmax weights (edges, operations), on the CPU; weights of edges are left out.

    Example:
        >>> operation_weights({"cell": torch.zeros(1, 2)})
        {'cell': tensor([[0.5000, 0.5000]])}
    """
    return {
        name: tensor.detach().softmax(-1).cpu()
        for name, tensor in architecture.items()
        if tensor.dim() == 2
    }


def mean_entropy(weights: Mapping[str, Tensor]) -> float:
    """Mean entropy of the edges' weights in nats: how undecided the search is.

    Example:
        >>> round(mean_entropy({"cell": torch.tensor([[0.5, 0.5]])}), 4)
        0.6931
    """
    edges = [torch.special.entr(weights_EO).sum(1) for weights_EO in weights.values()]
    return float(torch.cat(edges).mean())


def write_outcome(folder: Path, genotype: Genotype, history: Sequence[dict[str, Any]]) -> None:
    """Write `genotype.json`, `cell.svg` and, for a search with a history, `architecture.png`.

    Args:
        folder: of the search.
        genotype: what it found.
        history: lines of its log, with `weights` as lists.
    """
    # Here, as matplotlib is not to hold up a refusal.
    from selfexplain.report import architecture_figure, cell_svg, save_figure

    save_genotype(folder / "genotype.json", genotype)
    with atomic_file(folder / "cell.svg") as file:
        file.write(cell_svg(genotype).encode())
    if history:
        weights = [
            {name: torch.tensor(rows) for name, rows in line["weights"].items()} for line in history
        ]
        operations = FAMILIES[genotype.family].operations
        save_figure(architecture_figure(weights, operations), folder / "architecture.png")
