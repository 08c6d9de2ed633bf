"""Channel statistics, augmentations and corruptions of batches of images.

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

from selfexplain.data.images import ImageSet, to_device
from selfexplain.data.rand_augment import (
    DrawnOperations,
    Policy,
    apply_operations,
    check_policy,
    draw_operations,
)
from selfexplain.errors import InputError
from selfexplain.limits import Natural, check_options
from selfexplain.seeding import named_generator

# Mean and spread of the pixel values of each channel, and normalising by them.


_AT_MOST = 10_000  # images looked at: the mean of so many is good to two thousandths
_CHUNK = 500  # images read at a time, to bound memory


def channel_statistics(image_set: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure mean and standard deviation of each channel over a set of images.

    Args:
        image_set: The images that are trained on; 10,000 evenly spaced ones are looked at.

    Returns:
        mean_C and std_C, float32 on the CPU, in units of [0, 1]. The deviation is at least one
        grey level (1/255), for a channel of one value is divided by it.

    Raises:
        InputError: The set is empty.

    Example:
        >>> from selfexplain.data.images import MemoryImages
        >>> pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
        >>> channel_statistics(MemoryImages(pixels, torch.tensor([0, 1])))
        (tensor([0.5000]), tensor([0.5000]))
    """
    if len(image_set) == 0:
        raise InputError("the image set is empty; pass at least one image")
    indices = torch.linspace(
        0, len(image_set) - 1, min(len(image_set), _AT_MOST), dtype=torch.float64
    )
    # Sums of whole numbers are exact: the result does not depend on chunks, threads or device.
    sum_C = square_sum_C = torch.zeros(image_set.shape_CHW[0], dtype=torch.int64)
    for indices_B in torch.split(indices.round().long(), _CHUNK):
        pixels_BCHW = image_set.read(indices_B).long()
        sum_C = sum_C + pixels_BCHW.sum((0, 2, 3)).cpu()
        square_sum_C = square_sum_C + pixels_BCHW.square().sum((0, 2, 3)).cpu()
    count = len(indices) * image_set.shape_CHW[1] * image_set.shape_CHW[2]
    mean_C = sum_C.double() / count
    std_C = (square_sum_C.double() / count - mean_C.square()).clamp(min=1).sqrt()
    return (mean_C / 255).float(), (std_C / 255).float()


def normalise(images_BCHW: torch.Tensor, mean_C: torch.Tensor, std_C: torch.Tensor) -> torch.Tensor:
    """Turn uint8 pixels into float32 (x / 255 - mean) / std, contiguous.

    Args:
        images_BCHW: uint8 images.
        mean_C: Mean of each channel, in units of [0, 1], on the same device.
        std_C: Standard deviation of each channel, in the same units.

    Example:
        >>> pixels = torch.full((1, 1, 1, 2), 255, dtype=torch.uint8)
        >>> normalise(pixels, torch.tensor([0.5]), torch.tensor([0.25]))
        tensor([[[[2., 2.]]]])
    """
    # In the units of the pixels: one pass less over the batch.
    mean_C11, std_C11 = (255 * value_C[:, None, None] for value_C in (mean_C, std_C))
    return images_BCHW.contiguous().float().sub_(mean_C11).div_(std_C11)


# Random shifts, flips and cutout, for a whole batch in one call and on any device.


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What may be done to a training image.

    Attributes:
        crop_padding: Pixels of black added on every side before a crop of the old size; 0 = off.
        flip: Whether half of the images are mirrored left to right.
        cutout: Side in pixels of a black square put anywhere on the image; 0 = off.
        policy: trivial (TrivialAugment) or rand (RandAugment), after crop and flip; none = off.
        alternate_flip: Whether an image is mirrored in every second epoch in place of by chance, so
            that two epochs show every image both ways (Jordan 2024).

    Raises:
        InputError: A number is negative, there is no such policy, or images that are not to be
            mirrored are to be so in every second epoch.

    Example:
        >>> Augmentation(cutout=8)
        Augmentation(crop_padding=4, flip=True, cutout=8, policy='none', alternate_flip=False)
    """

    crop_padding: Natural = 4
    flip: bool = True
    cutout: Natural = 0
    policy: Policy = "none"
    alternate_flip: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        check_policy(self.policy)
        if self.alternate_flip and not self.flip:
            raise InputError("alternate_flip needs flip; pass flip=True, or leave it out")

    def check_fits(self, height: int, width: int) -> None:
        """Raise InputError if an image could disappear altogether."""
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
        operations: Of the policy; None if there is none.

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
    operations: DrawnOperations | None = None

    def part(self, images: slice, device: torch.device | str = "cpu") -> "AugmentationParams":
        """Return the parameters of some of the images, on `device`."""
        return AugmentationParams(
            offsets_B2=to_device(self.offsets_B2[images], device),
            flips_B=to_device(self.flips_B[images], device),
            centres_B2=to_device(self.centres_B2[images], device),
            crop_padding=self.crop_padding,
            cutout=self.cutout,
            # These stay on the CPU, where they say which images are to be taken together.
            operations=None if self.operations is None else self.operations.part(images),
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
    operations = None
    if augmentation.policy != "none":
        operations = draw_operations(augmentation.policy, batch_size, generator)
    return AugmentationParams(
        offsets_B2=offsets_B2,
        flips_B=flips_B,
        centres_B2=centres_B2,
        crop_padding=augmentation.crop_padding,
        cutout=augmentation.cutout,
        operations=operations,
    )


def alternating_flips(count: int, seed: int, epoch: int) -> torch.Tensor:
    """Which of `count` images are mirrored in an epoch, each in every second one: bool (N,).

    Which of them begin with it is drawn with the seed.
    """
    begin_N = torch.rand(count, generator=named_generator("alternate-flip", seed)) < 0.5
    return begin_N ^ bool(epoch % 2)


def augment(images_BCHW: torch.Tensor, params: AugmentationParams) -> torch.Tensor:
    """Crop out of a black border, mirror, apply the policy, black out a square: as drawn for each.

    Args:
        images_BCHW: Images, on the device of `params`; uint8, or of any dtype without a policy.
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
    if params.operations is not None:
        cropped_BCHW = apply_operations(cropped_BCHW, params.operations)
    if params.cutout == 0:
        return cropped_BCHW
    hole_BH = _covered(row_H, params.centres_B2[:, :1], params.cutout)
    hole_BW = _covered(column_W, params.centres_B2[:, 1:], params.cutout)
    return cropped_BCHW.masked_fill_((hole_BH[:, :, None] & hole_BW[:, None, :])[:, None], 0)


def _covered(place_S: torch.Tensor, centre_B1: torch.Tensor, side: int) -> torch.Tensor:
    """Say which places along one axis lie under a square of `side` pixels: (B, S)."""
    start_B1 = centre_B1 - side // 2
    return (place_S >= start_B1) & (place_S < start_B1 + side)


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
    """Pull pixels towards their mean: (x - m) factor + m, m the mean of each image's channel.

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
