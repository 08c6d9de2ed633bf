"""Random genotypes, for random search and for tests."""

import torch

from selfexplain.errors import InputError
from selfexplain.spaces.genotype import FAMILIES, Cell, CellRules, Edge, Genotype


def random_genotype(family: str, generator: torch.Generator | None = None) -> Genotype:
    """Draw a genotype, uniformly from all of its family.

    In the family darts no edge has the operation `none`, as in every derived cell.

    Args:
        family: a key of `FAMILIES`.
        generator: CPU generator to draw from; None for torch's global one.

    Raises:
        InputError: there is no such family.

    Example:
        >>> genotype = random_genotype("darts", torch.Generator().manual_seed(0))
        >>> [edge.source for edge in genotype.cells["normal"].nodes[0]]
        [0, 1]
    """
    if family not in FAMILIES:
        raise InputError(
            f"there are no cells of family {family!r}; pass one of {', '.join(FAMILIES)}"
        )
    rules = FAMILIES[family]
    return Genotype(family, {name: _random_cell(rules, generator) for name in rules.cells})


def _random_cell(rules: CellRules, generator: torch.Generator | None) -> Cell:
    names = [n for n in rules.operations if n != "none" or rules.edges_per_node is None]
    nodes = []
    for number in range(rules.inputs, rules.inputs + rules.nodes):
        order = torch.randperm(number, generator=generator)
        sources = sorted(order[: rules.edges_per_node].tolist())
        drawn = torch.randint(len(names), (len(sources),), generator=generator).tolist()
        nodes.append(tuple(Edge(names[o], s) for o, s in zip(drawn, sources, strict=True)))
    return Cell(tuple(nodes), rules.concat)
