"""Another view of an image: a random part of it, resized, perhaps mirrored; for maps as for images.

Shape suffixes: B batch, C channels, H and W space, N output positions along one side.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def bilinear_rows(low_B: Tensor, size_B: Tensor, count: int, outputs: int) -> Tensor:
    """Weights of bilinear interpolation along one side: (B, outputs, count), rows that sum to 1.

    Output i lies in the middle of the i-th of `outputs` equal parts of [low, low + size]; what lies
    outside the outermost pixels' centres takes their value.

    Args:
        low_B: where the part begins, as a share of the side.
        size_B: its length, as a share of the side.
        count: pixels along the side.
        outputs: positions wanted.

    Example:
        >>> bilinear_rows(torch.tensor([0.0]), torch.tensor([1.0]), count=2, outputs=2)
        tensor([[[1., 0.],
                 [0., 1.]]])
        >>> bilinear_rows(torch.tensor([0.0]), torch.tensor([1.0]), count=2, outputs=1)
        tensor([[[0.5000, 0.5000]]])
    """
    middle_N = (torch.arange(outputs, device=low_B.device, dtype=low_B.dtype) + 0.5) / outputs
    at_BN = (low_B[:, None] + size_B[:, None] * middle_N) * count - 0.5
    pixels = torch.arange(count, device=low_B.device, dtype=low_B.dtype)
    distance_BNP = (at_BN.clamp(0, count - 1).unsqueeze(2) - pixels).abs()
    return (1 - distance_BNP).clamp_min(0)


@dataclass(frozen=True, slots=True)
class View:
    """A box in each image, as shares of its sides, and whether it is mirrored left to right.

    Example:
        >>> right_half = torch.tensor([[0.0], [0.5], [1.0], [0.5]])
        >>> view = View(*right_half, mirrored_B=torch.tensor([True]))
        >>> view.of(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), (1, 2))
        tensor([[[[4., 3.]]]])
    """

    top_B: Tensor
    left_B: Tensor
    height_B: Tensor
    width_B: Tensor
    mirrored_B: Tensor

    def of(self, images_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
        """The boxes of images or maps (B, C, H, W), resized to (B, C, *size); differentiable.

        Interpolated bilinearly, without smoothing first, in no less than float32.
        """
        height, width = images_BCHW.shape[2:]
        left_B = torch.where(self.mirrored_B, self.left_B + self.width_B, self.left_B)
        width_B = torch.where(self.mirrored_B, -self.width_B, self.width_B)
        with torch.autocast(images_BCHW.device.type, enabled=False):
            rows_BNH = bilinear_rows(self.top_B, self.height_B, height, size[0])
            columns_BNW = bilinear_rows(left_B, width_B, width, size[1])
            wide = torch.promote_types(images_BCHW.dtype, rows_BNH.dtype)
            columns_B1WN = columns_BNW.to(wide).transpose(1, 2).unsqueeze(1)
            part = rows_BNH.to(wide).unsqueeze(1) @ images_BCHW.to(wide) @ columns_B1WN
        return part.to(images_BCHW.dtype)


def random_view(batch: int, generator: torch.Generator, min_area: float, mirror: bool) -> View:
    """A view with a random box for each image.

    The area is uniform in [min_area, 1] of the image; the ratio of width to height is between 3/4
    and 4/3, uniform in its logarithm; a side longer than the image's is cut to it; the place is
    uniform.

    Args:
        batch: number of images.
        generator: on the device of the images.
        min_area: least area of a box, as a share of the image.
        mirror: mirror half of the boxes.

    Example:
        >>> view = random_view(3, torch.Generator().manual_seed(0), min_area=0.5, mirror=True)
        >>> bool(((view.top_B + view.height_B) <= 1).all())
        True
    """
    uniform = torch.rand(5, batch, generator=generator, device=generator.device)
    area_B = min_area + (1 - min_area) * uniform[0]
    ratio_B = torch.exp((2 * uniform[1] - 1) * math.log(4 / 3))
    width_B = (area_B * ratio_B).sqrt().clamp_max(1)
    height_B = (area_B / ratio_B).sqrt().clamp_max(1)
    top_B, left_B = (1 - height_B) * uniform[2], (1 - width_B) * uniform[3]
    mirrored_B = (uniform[4] < 0.5) & mirror
    return View(top_B, left_B, height_B, width_B, mirrored_B)
