"""The network of a genotype as one file of plain PyTorch."""

from typing import get_args

from selfexplain.errors import InputError
from selfexplain.spaces.genotype import Cell, Genotype
from selfexplain.spaces.space import SPACES, Form

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

    Raises:
        InputError: a size or the form is none, or the space has no source to write into.

    Example:
        >>> from selfexplain.spaces import random_genotype
        >>> source = source_of(random_genotype("nasbench201"), num_classes=10, in_channels=3)
        >>> scope = {}
        >>> exec(source, scope)
        >>> type(scope["Network"]()).__name__
        'Network'
    """
    space = SPACES[genotype.family]
    channels, cells = space.size(form, channels, cells)
    sizes: list[int | str] = [num_classes, in_channels, channels, cells]
    # They may come from a file that a stranger wrote, and become source.
    if any(type(size) is not int for size in sizes) or form not in get_args(Form):
        raise InputError(
            f"sizes {sizes} and form {form!r} are not valid for a network; pass whole numbers, and "
            f"{' or '.join(get_args(Form))}"
        )
    names = "NUM_CLASSES, IN_CHANNELS, CHANNELS, CELLS"
    if space.source is None:
        raise InputError(
            f"the space {space.name} has no source that its networks could be written into; "
            "pass a genotype of another one"
        )
    shown = {name.upper(): genotype.cells[name] for name in space.rules.cells}
    lines = [line for name, cell in shown.items() for line in _cell(name, cell)]
    if len(space.rules.concat) > 1:
        concats = ", ".join(str(cell.concat) for cell in shown.values())
        lines.append(f"{', '.join(f'{name}_CONCAT' for name in shown)} = {concats}")
    if len(space.sizes) > 1:
        names += ", FORM"
        sizes.append(f'"{form}"')
    lines.append(f"{names} = {', '.join(map(str, sizes))}")
    template = space.source.read_text()
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
