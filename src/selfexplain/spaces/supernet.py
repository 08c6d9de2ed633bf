"""What all supernets have in common: their architecture is data, not a parameter.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.spaces.genotype import FAMILIES, Cell, Genotype
from selfexplain.spaces.mixed_op import edges_of


class Supernet(nn.Module):
    """A network that computes all candidate operations and mixes them by an architecture.

    The architecture is an argument of `forward`, so that gradients towards weights, architecture
    and images can each be taken alone, and `torch.func.functional_call(supernet, weights, (x,
    architecture))` puts other weights in. It holds raw numbers; the softmax is taken inside.

    Attributes:
        family: the family of cells that the supernet searches, a key of `FAMILIES`.
        architecture_shapes: name -> shape of each tensor of an architecture.

    Example:
        >>> from selfexplain.spaces import build_supernet
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=10, in_channels=1, image_size=8, channels=4, cells=1
        ... )
        >>> architecture = supernet.new_architecture()
        >>> supernet(torch.zeros(2, 1, 8, 8), architecture).shape
        torch.Size([2, 10])
    """

    family: str
    architecture_shapes: Mapping[str, tuple[int, ...]]

    def forward(self, x_BCHW: Tensor, architecture: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        raise NotImplementedError

    def genotype(self, architecture: Mapping[str, Tensor]) -> Genotype:
        """The discrete cells that an architecture stands for."""
        raise NotImplementedError

    def checked(
        self, architecture: Mapping[str, Tensor], x_BCHW: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """The architecture, in the images' type and place if there are images.

        Raises:
            InputError: it has other tensors than `architecture_shapes` says.
        """
        shapes = dict(self.architecture_shapes)
        given = {name: tuple(tensor.shape) for name, tensor in architecture.items()}
        if given != shapes:
            raise InputError(
                f"the architecture has {_listed(given)}; this supernet needs {_listed(shapes)}: "
                "pass what its new_architecture() returns"
            )
        if x_BCHW is None:
            return architecture
        return {name: tensor.to(x_BCHW) for name, tensor in architecture.items()}

    def new_architecture(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Start values, 1e-3 times standard normal numbers, as the published searches start.

        Args:
            generator: CPU generator to draw from; None for torch's global one.

        Returns:
            Name -> float32 tensor on the CPU.
        """
        return {
            name: 1e-3 * torch.randn(shape, generator=generator)
            for name, shape in self.architecture_shapes.items()
        }


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no tensors"


# From a genotype back to an architecture that computes it alone.
#
# Shape suffixes: E edges, O operations.


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
