"""Random shifts, flips and cutout, for a whole batch in one call and on any device."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from selfexplain.data.sending import send
from selfexplain.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What may be done to a training image.

    Attributes:
        crop_padding: Pixels of black added on every side before a crop of the old size; 0 = off.
        flip: Whether half of the images are mirrored left to right.
        cutout: Side in pixels of a black square put anywhere on the image; 0 = off.

    Raises:
        InputError: A number is negative.

    Example:
        >>> Augmentation(cutout=8)
        Augmentation(crop_padding=4, flip=True, cutout=8)
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise InputError(
                    f"{name} is {getattr(self, name)}; pass a number of pixels of at least 0"
                )

    def check_fits(self, height: int, width: int) -> None:
        """Raise InputError if an image could be lost from sight altogether."""
        side = min(height, width)
        if self.crop_padding >= side or self.cutout > side:
            raise InputError(
                f"crop_padding {self.crop_padding} and cutout {self.cutout} do not fit images of "
                f"{height} x {width}; pass crop_padding below {side} and cutout of at most {side}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationParams:
    """What is done to each image of a batch.

    Attributes:
        offsets_B2: Row and column, in the padded image, of the crop's corner: 0 to 2 * padding.
        flips_B: Whether the crop is mirrored.
        centres_B2: Row and column of the centre of the black square.
        crop_padding: As in `Augmentation`.
        cutout: As in `Augmentation`.

    Example:
        >>> params = draw(Augmentation(), 6, 8, 8, torch.Generator().manual_seed(0))
        >>> params.part(slice(0, 2)).flips_B.shape
        torch.Size([2])
    """

    offsets_B2: torch.Tensor
    flips_B: torch.Tensor
    centres_B2: torch.Tensor
    crop_padding: int
    cutout: int

    def part(self, images: slice, device: torch.device | str = "cpu") -> "AugmentationParams":
        """Return the parameters of some of the images, on `device`."""
        return AugmentationParams(
            offsets_B2=send(self.offsets_B2[images], device),
            flips_B=send(self.flips_B[images], device),
            centres_B2=send(self.centres_B2[images], device),
            crop_padding=self.crop_padding,
            cutout=self.cutout,
        )


def draw(
    augmentation: Augmentation, batch_size: int, height: int, width: int, generator: torch.Generator
) -> AugmentationParams:
    """Draw what to do to each image of a batch.

    Args:
        augmentation: What may be done.
        batch_size: Number of images, B.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        generator: A CPU generator.

    Returns:
        Parameters on the CPU.

    Example:
        >>> draw(Augmentation(), 3, 8, 8, torch.Generator().manual_seed(0)).offsets_B2.shape
        torch.Size([3, 2])
    """
    size_2 = torch.tensor([height, width])
    offsets_B2 = torch.randint(
        2 * augmentation.crop_padding + 1, (batch_size, 2), generator=generator
    )
    flips_B = torch.rand(batch_size, generator=generator) < (0.5 if augmentation.flip else 0.0)
    centres_B2 = (torch.rand(batch_size, 2, generator=generator) * size_2).long()
    return AugmentationParams(
        offsets_B2=offsets_B2,
        flips_B=flips_B,
        centres_B2=centres_B2,
        crop_padding=augmentation.crop_padding,
        cutout=augmentation.cutout,
    )


def augment(images_BCHW: torch.Tensor, params: AugmentationParams) -> torch.Tensor:
    """Crop out of a black border, mirror, and black out a square: each image as drawn for it.

    Args:
        images_BCHW: Images of any dtype, on the device of `params`.
        params: What to do to each image.

    Returns:
        New images, contiguous, of the same shape, dtype and device.

    Example:
        >>> images_BCHW = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
        >>> params = draw(Augmentation(), 2, 8, 8, torch.Generator().manual_seed(0))
        >>> augment(images_BCHW, params).shape
        torch.Size([2, 1, 8, 8])
    """
    B, C, H, W = images_BCHW.shape
    padding = params.crop_padding
    row_H, column_W = (torch.arange(side, device=images_BCHW.device) for side in (H, W))
    mirrored_BW = torch.where(params.flips_B[:, None], W - 1 - column_W, column_W)
    rows_BH = row_H + params.offsets_B2[:, :1]
    columns_BW = mirrored_BW + params.offsets_B2[:, 1:]
    # One gather over flattened pixels does crop and flip at once.
    pixels_BHW = rows_BH[:, :, None] * (W + 2 * padding) + columns_BW[:, None, :]
    padded_BCP = F.pad(images_BCHW, (padding,) * 4).reshape(B, C, -1)
    index_BCP = pixels_BHW.reshape(B, 1, -1).expand(B, C, -1)
    cropped_BCHW = padded_BCP.gather(2, index_BCP).reshape(B, C, H, W)
    if params.cutout == 0:
        return cropped_BCHW
    hole_BH = _covered(row_H, params.centres_B2[:, :1], params.cutout)
    hole_BW = _covered(column_W, params.centres_B2[:, 1:], params.cutout)
    return cropped_BCHW.masked_fill_((hole_BH[:, :, None] & hole_BW[:, None, :])[:, None], 0)


def _covered(place_S: torch.Tensor, centre_B1: torch.Tensor, side: int) -> torch.Tensor:
    """Say which places along one axis lie under a square of `side` pixels: (B, S)."""
    start_B1 = centre_B1 - side // 2
    return (place_S >= start_B1) & (place_S < start_B1 + side)
