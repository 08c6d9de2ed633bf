"""Images made worse, to ask how robust a classifier is: noise, blur, loss of contrast.

The formulas and strengths are those that CIFAR-10-C was made with (Hendrycks and Dietterich 2019,
"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", and their script
make_cifar_c.py), severities 1, 3 and 5. The noise is our own draw, and pixels are rounded where
theirs are cut off, so accuracies come close to those on CIFAR-10-C but are not the same.

Shape suffixes: B images, C channels, H and W space.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from selfexplain.errors import InputError


def gaussian_noise(images_BCHW: Tensor, sigma: float, normal_BCHW: Tensor) -> Tensor:
    """Add noise: x + sigma n, cut to [0, 1].

    Args:
        images_BCHW: images in [0, 1].
        sigma: standard deviation of the noise, in the same units.
        normal_BCHW: n, standard normal numbers.

    Example:
        >>> gaussian_noise(torch.full((1, 1, 1, 1), 0.5), 0.1, torch.ones(1, 1, 1, 1)).item()
        0.6000000238418579
    """
    return (images_BCHW + sigma * normal_BCHW).clamp(0, 1)


def gaussian_blur(images_BCHW: Tensor, sigma: float) -> Tensor:
    """Convolution with a Gaussian, cut off at 4 sigma; the pixels at the border go on beyond it.

    Args:
        images_BCHW: images of any floating-point type.
        sigma: standard deviation of the Gaussian in pixels.

    Example:
        >>> gaussian_blur(torch.eye(3)[None, None], 0.5).sum().item() > 2.9
        True
    """
    radius = int(4 * sigma + 0.5)
    offset_W = torch.arange(-radius, radius + 1, device=images_BCHW.device, dtype=torch.float64)
    kernel_W = (-0.5 * (offset_W / sigma).square()).exp()
    kernel_W = (kernel_W / kernel_W.sum()).to(images_BCHW.dtype)
    channels = images_BCHW.shape[1]
    weight = kernel_W.expand(channels, 1, 1, -1)
    padded = F.pad(images_BCHW, (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, weight, groups=channels)
    return F.conv2d(rows, weight.transpose(2, 3), groups=channels)


def contrast(images_BCHW: Tensor, factor: float) -> Tensor:
    """Draw pixels to their mean: (x - m) factor + m, m the mean of each image's channel.

    Example:
        >>> contrast(torch.tensor([[[[0.0, 1.0]]]]), 0.5).flatten().tolist()
        [0.25, 0.75]
    """
    mean_BC11 = images_BCHW.mean(dim=(2, 3), keepdim=True)
    return (images_BCHW - mean_BC11) * factor + mean_BC11


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """One kind of corruption at one strength.

    Example:
        >>> pixels = torch.full((1, 1, 2, 2), 200, dtype=torch.uint8)
        >>> corruption = CORRUPTIONS["contrast-5"]
        >>> corruption.apply(pixels, corruption.draw((1, 2, 2), [torch.Generator()])).dtype
        torch.uint8
    """

    kind: Literal["gaussian_noise", "gaussian_blur", "contrast"]
    strength: float
    """sigma in [0, 1], sigma in pixels, or the factor."""

    def draw(
        self, shape_CHW: tuple[int, int, int], generators: Iterable[torch.Generator]
    ) -> Tensor | None:
        """Draw what `apply` needs, (B, C, H, W) on the CPU; None if it needs nothing.

        Drawn on the CPU, and for each image by itself, the noise is the same whatever the device
        and the batch.

        Args:
            shape_CHW: of an image.
            generators: one on the CPU for each of the B images.
        """
        if self.kind != "gaussian_noise":
            return None
        return torch.stack([torch.randn(shape_CHW, generator=each) for each in generators])

    def apply(self, pixels_BCHW: Tensor, drawn_BCHW: Tensor | None) -> Tensor:
        """Corrupt uint8 pixels; the result is uint8 again, on the same device."""
        images_BCHW = pixels_BCHW.float() / 255
        match self.kind:
            case "gaussian_noise":
                assert drawn_BCHW is not None
                made = gaussian_noise(images_BCHW, self.strength, drawn_BCHW.to(images_BCHW.device))
            case "gaussian_blur":
                made = gaussian_blur(images_BCHW, self.strength)
            case "contrast":
                made = contrast(images_BCHW, self.strength)
        return (255 * made).round().to(torch.uint8)


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian_noise-1": Corruption(kind="gaussian_noise", strength=0.04),
        "gaussian_noise-3": Corruption(kind="gaussian_noise", strength=0.08),
        "gaussian_noise-5": Corruption(kind="gaussian_noise", strength=0.10),
        "gaussian_blur-1": Corruption(kind="gaussian_blur", strength=0.4),
        "gaussian_blur-3": Corruption(kind="gaussian_blur", strength=0.7),
        "gaussian_blur-5": Corruption(kind="gaussian_blur", strength=1.0),
        "contrast-1": Corruption(kind="contrast", strength=0.75),
        "contrast-3": Corruption(kind="contrast", strength=0.40),
        "contrast-5": Corruption(kind="contrast", strength=0.15),
    }
)
"""KIND-SEVERITY -> corruption."""


def find_corruption(name: str) -> Corruption:
    """The corruption of a name.

    Raises:
        InputError: there is none of this name.

    Example:
        >>> find_corruption("contrast-1").strength
        0.75
    """
    if name not in CORRUPTIONS:
        raise InputError(f"there is no corruption {name!r}; pass one of {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]
