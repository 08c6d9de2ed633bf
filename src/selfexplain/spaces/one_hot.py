"""From a genotype back to an architecture that computes it alone.

Shape suffixes: E edges, O operations.
"""

import torch
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.spaces.genotype import FAMILIES, Cell, Genotype
from selfexplain.spaces.mixing import edges_of
from selfexplain.spaces.supernet import Supernet

NEVER = -1e4
"""A raw number whose softmax beside a 0 is exactly zero, in half precision too."""


def one_hot_architecture(supernet: Supernet, genotype: Genotype) -> dict[str, Tensor]:
    """The architecture with which a supernet computes the cells of a genotype, and nothing else.

    An edge that the genotype has not is `none`; where edges have weights, those of a node's edges
    are equal.

    Args:
        supernet: of the genotype's family.
        genotype: the cells.

    Returns:
        Name -> float32 tensor on the CPU, as `Supernet.new_architecture` gives them.

    Raises:
        InputError: the genotype is of another family.

    Example:
        >>> from selfexplain.spaces import build_supernet, random_genotype
        >>> supernet = build_supernet(
        ...     "pcdarts", num_classes=2, in_channels=1, image_size=8, channels=8, cells=3
        ... )
        >>> genotype = random_genotype("darts")
        >>> supernet.genotype(one_hot_architecture(supernet, genotype)) == genotype
        True
    """
    if genotype.family != supernet.family:
        raise InputError(
            f"the genotype is of the family {genotype.family}, the supernet searches "
            f"{supernet.family}; pass a genotype of {supernet.family}"
        )
    architecture = {}
    for name, shape in supernet.architecture_shapes.items():
        chosen_EO = _chosen(genotype.cells[name.removesuffix("_edges")], genotype.family)
        numbers_EO = torch.where(chosen_EO, 0.0, NEVER)
        # Weights of edges: those whose operation is `none` by the genotype's silence.
        architecture[name] = numbers_EO if len(shape) == 2 else _edges(chosen_EO, genotype.family)
    return architecture


def _chosen(cell: Cell, family: str) -> Tensor:
    """Which operation (E, O) each edge has."""
    rules = FAMILIES[family]
    operation_of = {
        (edge.source, number): edge.operation
        for number, node in enumerate(cell.nodes, rules.inputs)
        for edge in node
    }
    names = [operation_of.get(edge, "none") for edge in edges_of(family)]
    return torch.tensor([[name == o for o in rules.operations] for name in names])


def _edges(chosen_EO: Tensor, family: str) -> Tensor:
    none = FAMILIES[family].operations.index("none")
    return torch.where(chosen_EO[:, none], NEVER, 0.0)
