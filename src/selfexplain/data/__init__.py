"""Labelled images: loading, splitting, augmenting and batching them.

Example:
    >>> data = load_data("digits")
    >>> mean_C, std_C = channel_statistics(data.train)
    >>> batches = Batches(data.train, batch_size=32, mean_C=mean_C, std_C=std_C)
    >>> x_BCHW, labels_B = next(batches.epoch(0))
    >>> x_BCHW.shape, labels_B.shape
    (torch.Size([32, 1, 8, 8]), torch.Size([32]))
"""

from selfexplain.data.datasets import load_data
from selfexplain.data.decode import StreamedImages
from selfexplain.data.images import ImageData, ImageSet, MemoryImages
from selfexplain.data.loader import Batches, hold_out, take
from selfexplain.data.transforms import (
    CORRUPTIONS,
    Augmentation,
    AugmentationParams,
    Corruption,
    augment,
    channel_statistics,
    contrast,
    draw,
    find_corruption,
    gaussian_blur,
    gaussian_noise,
    normalise,
)

__all__ = [
    "CORRUPTIONS",
    "Augmentation",
    "AugmentationParams",
    "Batches",
    "Corruption",
    "ImageData",
    "ImageSet",
    "MemoryImages",
    "StreamedImages",
    "augment",
    "channel_statistics",
    "contrast",
    "draw",
    "find_corruption",
    "gaussian_blur",
    "gaussian_noise",
    "hold_out",
    "load_data",
    "normalise",
    "take",
]
