"""What all supernets have in common: their architecture is data, not a parameter.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.spaces.genotype import Genotype


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
