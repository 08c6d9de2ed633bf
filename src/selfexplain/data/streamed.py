"""Images that are decoded when they are asked for: for sets that do not fit into memory."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from selfexplain.data.decode import Decoding, decode
from selfexplain.data.images import ImageSet
from selfexplain.data.sources import Source
from selfexplain.errors import InputError

T = TypeVar("T")


class StreamedImages(ImageSet):
    """Encoded images, decoded on demand; a subset is a view of the same source.

    Args:
        source: The encoded images.
        rows_N: Row in the source of each image of this set, int64.
        labels_N: Class numbers.
        decoding: The shape to decode to.

    Example:
        >>> from selfexplain.data.sources import Arrays
        >>> rule = Decoding(shape_CHW=(1, 8, 8), image_size=None, example="number 0")
        >>> source = Arrays(np.zeros((5, 8, 8), np.uint8))
        >>> images = StreamedImages(source, torch.arange(5), torch.arange(5), rule)
        >>> images.read(torch.tensor([4, 0])).shape
        torch.Size([2, 1, 8, 8])
        >>> [len(batch) for batch in images.stream([torch.tensor([4, 0]), torch.tensor([2])])]
        [2, 1]
    """

    def __init__(
        self, source: Source, rows_N: torch.Tensor, labels_N: torch.Tensor, decoding: Decoding
    ) -> None:
        self.source = source
        self.rows_N = rows_N
        self.labels_N = labels_N.to("cpu", torch.int64)
        self.decoding = decoding
        self.shape_CHW = decoding.shape_CHW

    def read(self, indices_B: torch.Tensor) -> torch.Tensor:
        """Decode images in this process.

        Raises:
            InputError: An image cannot be decoded, or has another size than the set.
        """
        rows_B = self.rows_N[indices_B.cpu()].tolist()
        images_BCHW = np.empty((len(rows_B), *self.shape_CHW), np.uint8)
        for place, row in enumerate(rows_B):
            images_BCHW[place] = decode(self.source, row, self.decoding)
        return torch.from_numpy(images_BCHW)

    def subset(self, indices: torch.Tensor) -> "StreamedImages":
        """Return a view; nothing is decoded."""
        indices = indices.cpu()
        return StreamedImages(
            self.source, self.rows_N[indices], self.labels_N[indices], self.decoding
        )

    def stream(
        self, batches: Sequence[torch.Tensor], *, workers: int = 0, pin_memory: bool = False
    ) -> Iterator[torch.Tensor]:
        """Decode one batch after another, ahead of time if there are workers.

        Args:
            batches: The indices of each batch.
            workers: Processes that decode; 0 decodes in this one.
            pin_memory: Put batches where a GPU can fetch them by itself.

        Yields:
            uint8 (B, C, H, W), in the order of `batches` whatever the number of workers.

        Raises:
            InputError: An image cannot be decoded, or has another size than the set.
        """
        loader = DataLoader(
            _Reads(self),
            batch_size=None,  # an item of the data set is a whole batch already
            sampler=batches,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # without it the loader draws from the global one
        )
        for images_BCHW in loader:
            if isinstance(images_BCHW, InputError):
                raise images_BCHW
            yield images_BCHW


class _Reads(Dataset[torch.Tensor | InputError]):
    """The batches of a set as items of a torch data set."""

    def __init__(self, images: StreamedImages) -> None:
        self.images = images

    def __getitem__(self, indices_B: torch.Tensor) -> torch.Tensor | InputError:
        # A worker's exception would arrive wrapped in a traceback; as a value it stays one sentence
        try:
            return self.images.read(indices_B)
        except InputError as error:
            return InputError(str(error))


def _unchanged(batch: T) -> T:
    return batch
