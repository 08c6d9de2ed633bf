"""A genotype: which operations a cell is made of, as data.

Nodes of a cell are numbered from its inputs on: a cell of the DARTS family has inputs 0 and 1 and
computes nodes 2 to 5; a NAS-Bench-201 cell has input 0 and computes nodes 1 to 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from selfexplain.errors import InputError

if TYPE_CHECKING:
    import torch

# What networks of any space ask of their numbers; without torch, for the command line.


Form = Literal["small", "imagenet"]
"""For images of about 32 pixels, or of about 224."""


def check_numbers(**numbers: int) -> None:
    """Raise InputError unless every number is at least 1.

    Example:
        >>> check_numbers(channels=16, cells=8)
    """
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} is {number}; pass a number of at least 1")


def check_divisible(what: str, channels: int, unit: int) -> None:
    """Raise InputError unless the channels can be split as the operations do.

    Example:
        >>> check_divisible("pcdarts", 16, 8)
    """
    if channels % unit:
        raise InputError(
            f"channels is {channels}, which {what} cannot split; pass a multiple of {unit}"
        )


def check_image_size(image_size: int, halvings: int) -> None:
    """Raise InputError unless images of this size can be halved so many times without a rest.

    Example:
        >>> check_image_size(8, halvings=2)
    """
    unit = 2**halvings
    if image_size < unit or image_size % unit:
        raise InputError(
            f"image_size is {image_size}, and this network halves its features {halvings} "
            f"time{'s' * (halvings > 1)}; pass a multiple of {unit}"
        )


def check_probability(probability: float) -> None:
    """Raise InputError unless the probability is in [0, 1).

    Example:
        >>> check_probability(0.2)
    """
    if not 0 <= probability < 1:
        raise InputError(f"drop_path is {probability:g}; pass a number from 0 to below 1")


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


@dataclass(frozen=True, slots=True)
class CellRules:
    """What a cell of a family may look like: its inputs, its nodes, its operations."""

    cells: tuple[str, ...]
    inputs: int
    nodes: int
    operations: tuple[str, ...]
    edges_per_node: int | None
    """Edges that enter each node; None for one from every earlier node."""
    concat: tuple[int, ...]


FAMILIES: dict[str, CellRules] = {
    "darts": CellRules(
        cells=("normal", "reduce"),
        inputs=2,
        nodes=4,
        operations=(
            "none",
            "max_pool_3x3",
            "avg_pool_3x3",
            "skip_connect",
            "sep_conv_3x3",
            "sep_conv_5x5",
            "dil_conv_3x3",
            "dil_conv_5x5",
        ),
        edges_per_node=2,
        concat=(2, 3, 4, 5),
    ),
    "nasbench201": CellRules(
        cells=("cell",),
        inputs=1,
        nodes=3,
        operations=("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),
        edges_per_node=None,
        concat=(3,),
    ),
}
"""Family of cells -> its rules. PC-DARTS searches cells of the family darts."""


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
                    f"node {number} of {what} takes node {edge.source}; pass 0 to {number - 1}"
                )
    if tuple(cell.concat) != rules.concat:
        raise InputError(
            f"{what} concatenates nodes {list(rules.concat)}; this one {list(cell.concat)}"
        )


# Random genotypes, for random search and for tests.


def random_genotype(family: str, generator: "torch.Generator | None" = None) -> Genotype:
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


def _random_cell(rules: CellRules, generator: "torch.Generator | None") -> Cell:
    import torch

    names = [n for n in rules.operations if n != "none" or rules.edges_per_node is None]
    nodes = []
    for number in range(rules.inputs, rules.inputs + rules.nodes):
        order = torch.randperm(number, generator=generator)
        sources = sorted(order[: rules.edges_per_node].tolist())
        drawn = torch.randint(len(names), (len(sources),), generator=generator).tolist()
        nodes.append(tuple(Edge(names[o], s) for o, s in zip(drawn, sources, strict=True)))
    return Cell(tuple(nodes), rules.concat)
