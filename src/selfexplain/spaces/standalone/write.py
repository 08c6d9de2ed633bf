"""The network of a genotype as one file of plain PyTorch."""

from pathlib import Path
from typing import get_args

from selfexplain.errors import InputError
from selfexplain.spaces.genotype import Cell, Form, Genotype
from selfexplain.spaces.network import published_size

BEGIN, END = "# begin: the network\n", "# end: the network\n"


def source_of(
    genotype: Genotype,
    *,
    num_classes: int,
    in_channels: int,
    channels: int | None = None,
    cells: int | None = None,
    form: Form = "small",
) -> str:
    """Source of a module whose `Network()` is the network that `build_network` builds.

    Its parameters and buffers have the same names, so that trained weights can be loaded into it
    (without an auxiliary head's, which it has not; nor has it drop-path).

    Args:
        genotype: of any family.
        num_classes: number of classes K.
        in_channels: channels C of the images.
        channels: channels of the first cells; None for the published ones, as `build_network`.
        cells: number of cells, or of cells a stage; None for the published ones.
        form: "small" or "imagenet" (darts alone).

    Example:
        >>> from selfexplain.spaces import random_genotype
        >>> source = source_of(random_genotype("nasbench201"), num_classes=10, in_channels=3)
        >>> scope = {}
        >>> exec(source, scope)
        >>> type(scope["Network"]()).__name__
        'Network'
    """
    channels, cells = published_size(genotype.family, form, channels, cells)
    sizes: list[int | str] = [num_classes, in_channels, channels, cells]
    # They may come from a file that a stranger wrote, and become source.
    if any(type(size) is not int for size in sizes) or form not in get_args(Form):
        raise InputError(
            f"sizes {sizes} and form {form!r} are none of a network; pass whole numbers, and "
            f"{' or '.join(get_args(Form))}"
        )
    names = "NUM_CLASSES, IN_CHANNELS, CHANNELS, CELLS"
    if genotype.family == "nasbench201":
        lines = _cell("CELL", genotype.cells["cell"])
    else:
        normal, reduce = genotype.cells["normal"], genotype.cells["reduce"]
        lines = [*_cell("NORMAL", normal), *_cell("REDUCE", reduce)]
        lines.append(f"NORMAL_CONCAT, REDUCE_CONCAT = {normal.concat}, {reduce.concat}")
        names += ", FORM"
        sizes.append(f'"{form}"')
    lines.append(f"{names} = {', '.join(map(str, sizes))}")
    template = Path(__file__).with_name(f"{genotype.family}_network.py").read_text()
    before, _, rest = template.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + "\n".join(lines) + "\n" + after


def _cell(name: str, cell: Cell) -> list[str]:
    """A cell as a list of nodes; edges with the operation none are left out."""
    nodes = [
        ", ".join(
            f'("{edge.operation}", {edge.source})' for edge in node if edge.operation != "none"
        )
        for node in cell.nodes
    ]
    return [f"{name} = [", *(f"    [{edges}]," for edges in nodes), "]"]
