"""Sets of labelled images: the interface, and the set that is held in memory."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from selfexplain.data.pixels import Ranges
from selfexplain.data.sending import send
from selfexplain.errors import InputError


class ImageSet(ABC):
    """N labelled images of one shape.

    Attributes:
        labels_N: int64 class numbers, on the CPU.
        shape_CHW: Shape of each image.

    Example:
        >>> images = MemoryImages(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
        >>> len(images), images.shape_CHW
        (5, (1, 8, 8))
    """

    labels_N: torch.Tensor
    shape_CHW: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels_N)

    @abstractmethod
    def read(self, indices_B: torch.Tensor) -> torch.Tensor:
        """Return the images at `indices_B` as uint8 (B, C, H, W)."""

    @abstractmethod
    def subset(self, indices: torch.Tensor) -> "ImageSet":
        """Return the set of the images at `indices`, in that order, with their labels."""

    def stream(
        self, batches: Sequence[torch.Tensor], *, workers: int = 0, pin_memory: bool = False
    ) -> Iterator[torch.Tensor]:
        """Read one batch after another, uint8 (B, C, H, W) each; see `StreamedImages.stream`."""
        del workers, pin_memory  # nothing to decode ahead
        return map(self.read, batches)


class MemoryImages(ImageSet):
    """Decoded images in one uint8 tensor, in main memory or on a device.

    Args:
        images_NCHW: uint8 images.
        labels_N: Class numbers.

    Raises:
        InputError: The two do not fit together.

    Example:
        >>> images = MemoryImages(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
        >>> images.subset(torch.tensor([4, 0])).labels_N
        tensor([4, 0])
        >>> images.read(torch.tensor([1, 2, 2])).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(self, images_NCHW: torch.Tensor, labels_N: torch.Tensor) -> None:
        if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4:
            raise InputError(
                f"images are {images_NCHW.dtype} of shape {tuple(images_NCHW.shape)}; "
                "pass a torch.uint8 tensor (N, C, H, W)"
            )
        if labels_N.shape != images_NCHW.shape[:1]:
            raise InputError(
                f"labels of shape {tuple(labels_N.shape)} were given for {len(images_NCHW)} "
                "images; pass one label for each image"
            )
        _, channels, height, width = images_NCHW.shape
        self.images_NCHW = images_NCHW
        self.labels_N = labels_N.to("cpu", torch.int64)
        self.shape_CHW = (channels, height, width)

    def read(self, indices_B: torch.Tensor) -> torch.Tensor:
        """Copy out images, on the device where they lie."""
        return self.images_NCHW.index_select(0, send(indices_B, self.images_NCHW.device))

    def subset(self, indices: torch.Tensor) -> "MemoryImages":
        """Copy out a set."""
        return MemoryImages(self.read(indices), self.labels_N[indices.cpu()])

    def to(self, device: torch.device | str) -> "MemoryImages":
        """Return this set with its images on `device`; its labels stay on the CPU."""
        return MemoryImages(self.images_NCHW.to(device), self.labels_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """A data set: two splits of images of one shape, and the names of the classes.

    Attributes:
        train: Images to learn and to select on.
        test: Images to report on.
        class_names: The name of class k at place k.
        ranges: What images of more than 8 bits were scaled by, and others must be.

    Example:
        >>> images = MemoryImages(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2))
        >>> data = ImageData(train=images, test=images, class_names=("cat", "dog"))
        >>> data.shape_CHW, data.num_classes
        ((1, 8, 8), 2)
    """

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    ranges: Ranges = field(default_factory=Ranges)

    @property
    def shape_CHW(self) -> tuple[int, int, int]:
        """Shape of each image."""
        return self.train.shape_CHW

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)
