"""What a search space is, as one object: its cells, its texts, its limits, and what builds it.

Without torch: the command line reads options and genotypes by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from selfexplain.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from selfexplain.spaces.genotype import Genotype
    from selfexplain.spaces.supernet import Supernet

Form = Literal["small", "imagenet"]
"""For images of about 32 pixels, or of about 224."""


@dataclass(frozen=True, slots=True)
class CellRules:
    """What a cell of a family may look like: its inputs, its nodes, its operations.

    Args:
        cells: names of the cells that a genotype has.
        inputs: number of nodes that a cell reads; they are numbered from 0.
        nodes: number of nodes that it computes; they are numbered on.
        operations: names of what an edge may be, in the order of an architecture's columns.
        edges_per_node: edges that enter each node; None for one from every earlier node.
        concat: numbers of the nodes that make the output.

    Example:
        >>> CellRules(("cell",), 1, 2, ("none", "skip_connect"), None, (2,)).concat
        (2,)
    """

    cells: tuple[str, ...]
    inputs: int
    nodes: int
    operations: tuple[str, ...]
    edges_per_node: int | None
    concat: tuple[int, ...]


class Size(NamedTuple):
    """Channels of the first cells of a derived network, and its number of cells.

    Example:
        >>> Size(channels=36, cells=20).cells
        20
    """

    channels: int
    cells: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """A search space; once it is in `SPACES`, searches, networks, files and reports know it.

    Args:
        name: what `build_supernet` and `selfexplain search --space` call it.
        family: whose genotypes its searches end with: its own name, or that of the space that
            brought them (pcdarts searches genotypes of darts). Only a family's own space is asked
            for texts, derived networks and exported source.
        rules: what a cell may look like.
        to_string: writes a genotype as text.
        from_string: reads such a text, or raises InputError.
        text_pattern: regular expression with which such texts, and no other space's, begin.
        text_example: how such a text looks, for messages.
        supernet: makes the supernet from the keywords num_classes, in_channels, image_size,
            channels and cells, which are checked, and from form where the space has several.
        network: makes the network of a genotype from the same keywords, form and auxiliary.
        halvings: how often a network of this many cells and a form halves its features.
        supernet_cells: cells of a supernet where nobody says how many.
        sizes: the published size of derived networks for each form that the space's networks have;
            all have "small".
        channel_unit: channels are a multiple of it.
        fewest_cells: of a supernet.
        with_fewer_cells: what a supernet of fewer cells does or has, for the message.
        auxiliary: whether derived networks can have an auxiliary head.
        source: the plain PyTorch file that `source_of` puts a genotype into; None for none.

    Example:
        >>> from selfexplain.spaces import SPACES
        >>> SPACES["pcdarts"].family, SPACES["pcdarts"].channels_problem(12)
        ('darts', 'channels is 12; for pcdarts pass a multiple of 8')
    """

    name: str
    family: str
    rules: CellRules
    to_string: Callable[[Genotype], str]
    from_string: Callable[[str], Genotype]
    text_pattern: str
    text_example: str
    supernet: Callable[..., Supernet]
    network: Callable[..., nn.Module]
    halvings: Callable[[int, Form], int]
    supernet_cells: int
    sizes: Mapping[Form, Size]
    channel_unit: int = 1
    fewest_cells: int = 1
    with_fewer_cells: str = "cannot be built"
    auxiliary: bool = False
    source: Path | None = None

    def size(self, form: Form, channels: int | None, cells: int | None) -> Size:
        """Of a derived network: the given numbers, else the published ones."""
        published = self.sizes.get(form, self.sizes["small"])
        return Size(
            published.channels if channels is None else channels,
            published.cells if cells is None else cells,
        )

    def channels_problem(self, channels: int, option: str = "channels") -> str:
        """What is wrong with the channels of a supernet, and what to pass; empty if nothing is."""
        if channels % self.channel_unit == 0:
            return ""
        return f"{option} is {channels}; for {self.name} pass a multiple of {self.channel_unit}"

    def cells_problem(self, cells: int) -> str:
        """What is wrong with the cells of a supernet, and what to pass; empty if nothing is."""
        if cells >= self.fewest_cells:
            return ""
        return (
            f"cells is {cells}, but a {self.name} supernet of fewer than {self.fewest_cells} cells "
            f"{self.with_fewer_cells}; pass at least {self.fewest_cells}"
        )

    def lacking(self, form: Form, auxiliary: bool) -> str:
        """What is asked of a network of the space that it lacks; empty if nothing is.

        Raises:
            InputError: there is no such form.
        """
        if form not in get_args(Form):
            raise InputError(f"there is no form {form!r}; pass {' or '.join(get_args(Form))}")
        absent = [] if form in self.sizes else [f"{form} form"]
        if auxiliary and not self.auxiliary:
            absent.append("auxiliary head")
        return f"a {self.family} network has no {' and no '.join(absent)}" if absent else ""


SPACES: dict[str, SearchSpace] = {}
"""The spaces that can be searched, by name; those of the library come from `registry`."""


def families() -> list[SearchSpace]:
    """The spaces whose genotypes are their own: one for each family of cells.

    Example:
        >>> [space.name for space in families()]
        ['nasbench201', 'tiny201', 'darts']
    """
    return [space for space in SPACES.values() if space.family == space.name]


def register_space(space: SearchSpace) -> None:
    """Register a space under its name.

    Args:
        space: of a name that is new, and of a family that is known or its own.

    Raises:
        InputError: the name is taken, or the family unknown.

    Example:
        >>> register_space(SPACES["darts"])
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is a space 'darts' already; pass another name
    """
    if space.name in SPACES:
        raise InputError(f"there is a space {space.name!r} already; pass another name")
    known = [other.name for other in families()]
    if space.family not in (space.name, *known):
        raise InputError(
            f"the space {space.name!r} is of the family {space.family!r}, which does not exist; "
            f"pass family={space.name!r}, or one of {', '.join(known)}"
        )
    SPACES[space.name] = space


# What networks of any space ask of their numbers.


def check_numbers(**numbers: int) -> None:
    """Raise InputError unless every number is at least 1.

    Example:
        >>> check_numbers(channels=16, cells=8)
    """
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} is {number}; pass a number of at least 1")


def check_image_size(image_size: int, halvings: int) -> None:
    """Raise InputError unless images of this size can be halved this often without remainder.

    Example:
        >>> check_image_size(8, halvings=2)
    """
    unit = 2**halvings
    if image_size < unit or image_size % unit:
        raise InputError(
            f"image_size is {image_size}, but this network halves its features {halvings} "
            f"time{'s' * (halvings != 1)}; pass a multiple of {unit}"
        )


def check_probability(probability: float) -> None:
    """Raise InputError unless the probability is in [0, 1).

    Example:
        >>> check_probability(0.2)
    """
    if not 0 <= probability < 1:
        raise InputError(f"drop_path is {probability:g}; pass a number from 0 to below 1")
