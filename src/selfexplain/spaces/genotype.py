"""A genotype: which operations a cell is made of, as data.

Nodes of a cell are numbered from its inputs on: a cell of the DARTS family has inputs 0 and 1 and
computes nodes 2 to 5; a NAS-Bench-201 cell has input 0 and computes nodes 1 to 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from selfexplain.errors import InputError
from selfexplain.spaces.space import CellRules, families

if TYPE_CHECKING:
    import torch


class Edge(NamedTuple):
    """An operation on an earlier node.

    Example:
        >>> Edge("skip_connect", 0).source
        0
    """

    operation: str
    source: int


@dataclass(frozen=True, slots=True)
class Cell:
    """The nodes that a cell computes, each the sum of its edges, and those that make the output.

    Args:
        nodes: for each computed node, in order, its incoming edges.
        concat: numbers of the nodes that are concatenated, over channels, to the cell's output.

    Example:
        >>> Cell(nodes=((Edge("skip_connect", 0),),), concat=(1,)).nodes[0][0].operation
        'skip_connect'
    """

    nodes: tuple[tuple[Edge, ...], ...]
    concat: tuple[int, ...]


class _Families(Mapping[str, CellRules]):
    """A family of cells is named after the space that brought it; this finds their rules."""

    def _known(self) -> dict[str, CellRules]:
        return {space.name: space.rules for space in sorted(families(), key=lambda s: s.name)}

    def __getitem__(self, family: str) -> CellRules:
        return self._known()[family]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())


FAMILIES: Mapping[str, CellRules] = _Families()
"""Family of cells -> its rules. PC-DARTS searches cells of the family darts."""


def edges_of(family: str) -> list[tuple[int, int]]:
    """All edges (source, target) of a cell, in the order of an architecture's rows.

    The order is that of the published searches: target by target, and for each the sources from 0.
    """
    rules = FAMILIES[family]
    targets = range(rules.inputs, rules.inputs + rules.nodes)
    return [(source, target) for target in targets for source in range(target)]


@dataclass(frozen=True, slots=True)
class Genotype:
    """The cells of an architecture, by name: normal and reduce (darts), or cell (nasbench201).

    Raises:
        InputError: a cell, a node count, an operation or a source is not of the family.

    Example:
        >>> skip, conv = Edge("skip_connect", 0), Edge("nor_conv_3x3", 0)
        >>> third = (conv, Edge("none", 1), Edge("skip_connect", 2))
        >>> cell = Cell(nodes=((conv,), (skip, Edge("none", 1)), third), concat=(3,))
        >>> Genotype("nasbench201", {"cell": cell}).cells["cell"].nodes[0]
        (Edge(operation='nor_conv_3x3', source=0),)
    """

    family: str
    cells: Mapping[str, Cell]

    def __post_init__(self) -> None:
        """Refuse what is not of the family."""
        if self.family not in FAMILIES:
            raise InputError(
                f"there are no cells of family {self.family!r}; pass one of {', '.join(FAMILIES)}"
            )
        rules = FAMILIES[self.family]
        if set(self.cells) != set(rules.cells):
            raise InputError(
                f"a {self.family} genotype has cells {', '.join(rules.cells)}; "
                f"this one has {', '.join(self.cells) or 'none'}"
            )
        for name, cell in self.cells.items():
            _check_cell(f"cell {name!r} of a {self.family} genotype", cell, rules)


def _check_cell(what: str, cell: Cell, rules: CellRules) -> None:
    if len(cell.nodes) != rules.nodes:
        raise InputError(f"{what} computes {rules.nodes} nodes; this one has {len(cell.nodes)}")
    for number, edges in enumerate(cell.nodes, start=rules.inputs):
        wanted = number if rules.edges_per_node is None else rules.edges_per_node
        sources = [edge.source for edge in edges]
        if len(edges) != wanted or len(set(sources)) != wanted:
            raise InputError(
                f"node {number} of {what} takes {wanted} edges from different nodes; "
                f"this one takes {len(edges)} from {sorted(sources)}"
            )
        for edge in edges:
            if edge.operation not in rules.operations:
                raise InputError(
                    f"node {number} of {what} uses the operation {edge.operation!r}; "
                    f"pass one of {', '.join(rules.operations)}"
                )
            if not 0 <= edge.source < number:
                raise InputError(
                    f"node {number} of {what} takes node {edge.source}; pass a node from 0 to "
                    f"{number - 1}"
                )
    if tuple(cell.concat) != rules.concat:
        raise InputError(
            f"{what} concatenates nodes {list(rules.concat)}; this one concatenates "
            f"{list(cell.concat)}"
        )


# The genotype that takes no search, and random ones, for random search and for tests.


def all_conv3x3(family: str) -> Genotype:
    """A 3x3 convolution on every edge; where nodes choose their edges, on those from the inputs.

    Of several 3x3 convolutions it is the first: a separable one in darts.

    Raises:
        InputError: there is no such family, or none of its operations is a 3x3 convolution.

    Example:
        >>> all_conv3x3("tiny201").cells["cell"].nodes[0]
        (Edge(operation='nor_conv_3x3', source=0),)
    """
    if family not in FAMILIES:
        raise InputError(
            f"there are no cells of family {family!r}; pass one of {', '.join(FAMILIES)}"
        )
    rules = FAMILIES[family]
    operation = next((name for name in rules.operations if name.endswith("conv_3x3")), None)
    if operation is None:
        raise InputError(
            f"no operation of {family} is called ...conv_3x3; pass another method than all_conv3x3"
        )
    nodes = [
        tuple(Edge(operation, source) for source in range(number)[: rules.edges_per_node])
        for number in range(rules.inputs, rules.inputs + rules.nodes)
    ]
    return Genotype(family, {name: Cell(tuple(nodes), rules.concat) for name in rules.cells})


def random_genotype(family: str, generator: torch.Generator | None = None) -> Genotype:
    """Draw a genotype, uniformly from all of its family.

    In the family darts no edge has the operation `none`, as in every derived cell.

    Args:
        family: a key of `FAMILIES`.
        generator: CPU generator to draw from; None for torch's global one.

    Raises:
        InputError: there is no such family.

    Example:
        >>> import torch
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
    import torch  # here, as the command line reads genotypes without it

    names = [n for n in rules.operations if n != "none" or rules.edges_per_node is None]
    nodes = []
    for number in range(rules.inputs, rules.inputs + rules.nodes):
        order = torch.randperm(number, generator=generator)
        sources = sorted(order[: rules.edges_per_node].tolist())
        drawn = torch.randint(len(names), (len(sources),), generator=generator).tolist()
        nodes.append(tuple(Edge(names[o], s) for o, s in zip(drawn, sources, strict=True)))
    return Cell(tuple(nodes), rules.concat)
