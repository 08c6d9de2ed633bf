"""Encoded images: where their bytes lie, how one is decoded, and sets that decode as they are read.

Shape letters, here and in the whole package: N images of a set, B of a batch, C channels,
H height, W width. Pixel values are 0 to 255.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from selfexplain.data.images import (
    EXIF_ORIENTATION,
    ImageSet,
    OutgrownError,
    Ranges,
    native_channels,
    to_array,
)
from selfexplain.data.opening import NAMES, lies_below, open_image
from selfexplain.errors import InputError

# Where encoded images lie: files, rows of a table, or an array. Nothing is decoded here.


class ImageSource(Protocol):
    """A row of images that can be opened one by one, and named in messages."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """Name image `row` so that the user can find it."""

    def open(self, row: int) -> Image.Image:
        """Open image `row`, checked; Pillow decodes the pixels when they are first asked for."""


@dataclass(frozen=True, slots=True)
class Files:
    """Image files.

    Example:
        >>> Files((Path("cat/1.png"),)).name(0)
        'cat/1.png'
    """

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        """Name image `row` by its path."""
        return str(self.paths[row])

    def open(self, row: int) -> Image.Image:
        """Open file `row`."""
        return open_image(self.paths[row])


@dataclass(frozen=True, slots=True)
class TableRows:
    """The image column of a Hugging Face data set.

    Attributes:
        rows: A `datasets.Dataset` whose image column is not decoded: its cells are
            {"bytes": ..., "path": ...}. The data set itself is kept, and not its column, for it
            stays on disk and travels to worker processes as a file name.
        column: Name of the image column.
        split: Name of the split, for messages.
        folders: Where the files may lie that cells name in place of holding bytes; relative names
            are taken from the first.
    """

    rows: Any
    column: str
    split: str
    folders: Sequence[Path] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """Name image `row` by split and row number."""
        return f"in {self.split} row {row}"

    def open(self, row: int) -> Image.Image:
        """Open the cell of row `row`."""
        cell = self.rows[row][self.column]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise InputError(f"the cell of the column '{self.column}' is empty")
        encoded = cell["bytes"]
        return open_image(self._own_file(cell["path"]) if encoded is None else encoded)

    def _own_file(self, name: str) -> Path:
        """The file that a cell names, which must lie with the table: it came from a stranger."""
        place = self.folders[0] / name if self.folders else Path(name)
        if not lies_below(place, self.folders):
            raise InputError(
                f"the column '{self.column}' names the file {name!r}, which is not in the "
                "folder of the table"
            )
        return place


@dataclass(frozen=True, slots=True)
class Arrays:
    """Grey images that are already decoded, as a uint8 array (N, H, W)."""

    images_NHW: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images_NHW)

    def name(self, row: int) -> str:
        """Name image `row` by its number."""
        return f"number {row}"

    def open(self, row: int) -> Image.Image:
        """Wrap image `row`."""
        return Image.fromarray(self.images_NHW[row])


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSplit:
    """The encoded images of one split, and their labels.

    Attributes:
        name: "train" or "test", for messages.
        source: N encoded images.
        labels_N: int64 class numbers.

    Example:
        >>> source = Arrays(np.zeros((2, 8, 8), np.uint8))
        >>> RawSplit(name="train", source=source, labels_N=torch.tensor([0, 1])).name
        'train'
    """

    name: str
    source: ImageSource
    labels_N: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RawData:
    """What every reader returns: two splits that are not decoded yet, and the class names.

    Attributes:
        train: Images to learn from.
        test: Images to report on.
        class_names: The name of class k at place k.
        notes: What was left out or changed, in words, for the user to be told.

    Example:
        >>> source = Arrays(np.zeros((2, 8, 8), np.uint8))
        >>> split = RawSplit(name="train", source=source, labels_N=torch.tensor([0, 1]))
        >>> RawData(train=split, test=split, class_names=("cat", "dog")).class_names
        ('cat', 'dog')
    """

    train: RawSplit
    test: RawSplit
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


_QUARTER_TURNS = {5, 6, 7, 8}  # the EXIF orientations that exchange width and height


class BrokenImageError(InputError):
    """One image cannot be decoded; `skip_broken=True` passes over it.

    Example:
        >>> issubclass(BrokenImageError, InputError)
        True
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How each image of a data set becomes an array of one and the same shape.

    Attributes:
        shape_CHW: The shape of every decoded image.
        image_size: Side in pixels to resize and crop to, or None: images keep their size.
        example: Name of the image that the shape was read from, for the message on a mismatch.
        ranges: What images of more than 8 bits are scaled by; None takes each image's own.
        only_grey: Whether an image in colour is an error; else it is read as the shape says.
    """

    shape_CHW: tuple[int, int, int]
    image_size: int | None
    example: str
    ranges: Ranges | None = None
    only_grey: bool = False


def decode(
    source: ImageSource, row: int, decoding: Decoding, seen: Counter[str] | None = None
) -> NDArray[np.uint8]:
    """Decode image `row` of a source to a uint8 array (C, H, W), and count what it is in `seen`.

    Raises:
        BrokenImageError: The image cannot be decoded.
        OutgrownError: It is deeper than the ranges of the set, or in colour and must not be.
        InputError: Its size differs from the others' and no image_size was given.
    """
    try:
        with source.open(row) as image:
            if seen is not None:
                count(image, seen)
            check_colour(image, decoding)
            pixels = to_array(image, decoding.shape_CHW[0], decoding.image_size, decoding.ranges)
    except OutgrownError as error:
        raise outgrown(source, row, error) from error
    except Exception as error:  # Pillow's plugins raise almost anything on damaged bytes
        raise broken(source, row, error) from error
    check_size(source, row, (pixels.shape[1], pixels.shape[2]), decoding)
    return pixels


def decode_free(
    source: ImageSource,
    row: int,
    channels: int | None,
    image_size: int | None,
    ranges: Ranges | None = None,
) -> NDArray[np.uint8]:
    """Decode image `row` whatever its size; `channels=None` takes as many as it calls for.

    Raises:
        BrokenImageError: The image cannot be decoded.
        OutgrownError: It is deeper than `ranges`.

    Example:
        >>> from selfexplain.data.decode import Arrays
        >>> decode_free(Arrays(np.zeros((5, 8, 8), np.uint8)), 3, None, 16).shape
        (1, 16, 16)
    """
    try:
        with source.open(row) as image:
            return to_array(image, channels or native_channels(image), image_size, ranges)
    except OutgrownError as error:
        raise outgrown(source, row, error) from error
    except Exception as error:  # Pillow's plugins raise almost anything on damaged bytes
        raise broken(source, row, error) from error


def broken(source: ImageSource, row: int, error: Exception) -> BrokenImageError:
    """What is said of an image that cannot be decoded."""
    reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    if isinstance(error, UnidentifiedImageError):  # Pillow names the address of an object
        reason = f"it is no {NAMES} file, whatever its name says"
    return BrokenImageError(
        f"the image {source.name(row)} cannot be decoded ({reason}); "
        "replace or remove it, or pass --skip-broken (skip_broken=True)"
    )


def outgrown(source: ImageSource, row: int, error: OutgrownError) -> OutgrownError:
    """The same error, which names the image, too."""
    return OutgrownError(
        f"the image {source.name(row)} does not fit the others: {error}", error.ranges
    )


def count(image: Image.Image, seen: Counter[str]) -> None:
    """Count an image as grey or colour, and whether its file contains more than is read."""
    seen["grey" if native_channels(image) == 1 else "coloured"] += 1
    # What follows a photograph in an MPO file are smaller copies of it.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        seen["frames"] += 1


def check_colour(image: Image.Image, decoding: Decoding) -> None:
    """Raise OutgrownError if an image in colour would be read as grey by mistake."""
    if decoding.only_grey and native_channels(image) == 3:
        raise OutgrownError("it is in colour, and the images before it are grey", None)


def check_size(source: ImageSource, row: int, size_HW: tuple[int, int], decoding: Decoding) -> None:
    """Raise InputError if image `row` has another height or width than the data set."""
    expected_HW = decoding.shape_CHW[1:]
    if size_HW != expected_HW:
        raise InputError(
            f"images differ in size: {decoding.example} is {expected_HW[0]} x {expected_HW[1]} "
            f"pixels (height x width), {source.name(row)} is {size_HW[0]} x {size_HW[1]}; "
            "pass --image-size (image_size) to resize all images"
        )


def header_size(image: Image.Image) -> tuple[int, int]:
    """Read (height, width) of the upright image from its header, without decoding pixels.

    Example:
        >>> header_size(Image.new("L", (9, 5)))
        (5, 9)
    """
    if image.format == "TIFF":  # Pillow turns it itself, and gives the size of what it will load
        return image.height, image.width
    # To look for what hardly ever follows a PNG's pixels, Pillow would decode them all.
    unknown = image.format == "PNG" and "exif" not in image.info
    turned = not unknown and image.getexif().get(EXIF_ORIENTATION) in _QUARTER_TURNS
    return (image.width, image.height) if turned else (image.height, image.width)


# Images that are decoded when they are asked for: for sets that do not fit into memory.


T = TypeVar("T")


class StreamedImages(ImageSet):
    """Encoded images, decoded on demand; a subset is a view of the same source.

    Args:
        source: The encoded images.
        rows_N: Row in the source of each image of this set, int64.
        labels_N: Class numbers.
        decoding: The shape to decode to.

    Example:
        >>> from selfexplain.data.decode import Arrays
        >>> rule = Decoding(shape_CHW=(1, 8, 8), image_size=None, example="number 0")
        >>> source = Arrays(np.zeros((5, 8, 8), np.uint8))
        >>> images = StreamedImages(source, torch.arange(5), torch.arange(5), rule)
        >>> images.read(torch.tensor([4, 0])).shape
        torch.Size([2, 1, 8, 8])
        >>> [len(batch) for batch in images.stream([torch.tensor([4, 0]), torch.tensor([2])])]
        [2, 1]
    """

    def __init__(
        self, source: ImageSource, rows_N: torch.Tensor, labels_N: torch.Tensor, decoding: Decoding
    ) -> None:
        self.source = source
        self.rows_N = rows_N
        self.labels_N = labels_N.to("cpu", torch.int64)
        self.decoding = decoding
        self.shape_CHW = decoding.shape_CHW

    def name(self, index: int) -> str:
        """Name an image by its file or its row."""
        return self.source.name(int(self.rows_N[index]))

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
