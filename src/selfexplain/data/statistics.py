"""Mean and spread of the pixel values of each channel, and normalising by them."""

import torch

from selfexplain.data.images import ImageSet
from selfexplain.errors import InputError

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
