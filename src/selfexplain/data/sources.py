"""Where encoded images lie: files, rows of a table, or an array. Nothing is decoded here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from selfexplain.data.opening import lies_below, open_image
from selfexplain.errors import InputError


class Source(Protocol):
    """A row of images that can be opened one by one, and named in messages.

    Example:
        >>> source: Source = Arrays(np.zeros((5, 8, 8), np.uint8))
        >>> len(source), source.name(2)
        (5, 'number 2')
    """

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

    Example:
        >>> TableRows([{"img": None}], "img", "train").name(0)
        'in train row 0'
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
                f"the column '{self.column}' names the file {name!r}, which does not lie in the "
                "folder of the table"
            )
        return place


@dataclass(frozen=True, slots=True)
class Arrays:
    """Grey images that are already decoded, as a uint8 array (N, H, W).

    Example:
        >>> Arrays(np.zeros((5, 8, 8), np.uint8)).open(0).size
        (8, 8)
    """

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
    source: Source
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
