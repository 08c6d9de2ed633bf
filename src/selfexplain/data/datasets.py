"""From the name of a data set to its images: the digits that come along, folders, hub tables."""

import importlib.util
import math
import operator
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from selfexplain.data.decode import (
    Arrays,
    BrokenImageError,
    Decoding,
    ImageSource,
    RawData,
    RawSplit,
    StreamedImages,
    broken,
    check_colour,
    check_size,
    count,
    decode,
    decode_free,
    header_size,
    outgrown,
)
from selfexplain.data.decoded import Decoded, decoded_once
from selfexplain.data.folders import read_folder
from selfexplain.data.images import (
    ImageData,
    ImageSet,
    MemoryImages,
    OutgrownError,
    Ranges,
    is_deep,
    unclear_floats,
)
from selfexplain.data.labels import (
    abridged,
    check_several,
    class_numbers,
    classes_of,
    notes_on_classes,
    notes_on_names,
    printable_names,
)
from selfexplain.data.loader import hold_out
from selfexplain.errors import InputError, first_line
from selfexplain.lazy import import_named
from selfexplain.limits import check_in_range

# The handwritten digits that come with scikit-learn: a data set that needs no download.


def read_digits() -> RawData:
    """Read the 1,797 grey images of 8 x 8 pixels; a fixed fifth of each class is the test split."""
    # Rows of 64 values from 0 to 16, and the digit.
    rows_NP = np.loadtxt(_digits_file(), delimiter=",")
    pixels_NHW = np.round(rows_NP[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels_N = torch.from_numpy(rows_NP[:, -1]).long()
    train, test = hold_out(labels_N, 0.2, seed=0)
    raw_train, raw_test = (
        RawSplit(name=name, source=Arrays(pixels_NHW[rows.numpy()]), labels_N=labels_N[rows])
        for name, rows in (("train", train), ("test", test))
    )
    return RawData(
        train=raw_train, test=raw_test, class_names=tuple(str(digit) for digit in range(10))
    )


def _digits_file() -> Path:
    """Where scikit-learn keeps them, found without its import, which takes as long as torch's."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the data set digits comes with scikit-learn")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


# Data sets of the user's own: a function, or a class, of two splits as PyTorch has them.


class OwnImages:
    """The images of a data set in PyTorch's sense, whose items are (image, label).

    Args:
        items: with a length; an item is asked for by its number.
        split: its name, for messages.
    """

    def __init__(self, items: Any, split: str) -> None:
        self.items, self.split = items, split

    def __len__(self) -> int:
        return len(self.items)

    def name(self, row: int) -> str:
        """Name image `row` by split and number."""
        return f"number {row} of {self.split}"

    def item(self, row: int) -> tuple[Any, Any]:
        """Image and label, as the user's code gives them."""
        try:
            image, label = self.items[row]
        except Exception as error:  # the user's code may raise anything
            raise InputError(
                f"item {row} of {self.split} cannot be had as image and label "
                f"({first_line(error)}); return (image, label) from __getitem__"
            ) from error
        return image, label

    def open(self, row: int) -> Image.Image:
        """Image `row`: one of Pillow, or pixels as a uint8 array (H, W) or (H, W, 3)."""
        image, _ = self.item(row)
        if isinstance(image, Image.Image):
            return image.copy()  # what is opened here is closed again
        pixels = np.asarray(image) if isinstance(image, (np.ndarray, torch.Tensor)) else None
        if pixels is None or pixels.dtype != np.uint8 or not _is_picture(pixels.shape):
            said = type(image).__name__ if pixels is None else f"{pixels.dtype} {pixels.shape}"
            raise InputError(
                f"image {row} of {self.split} is a {said}; return a PIL image, or a uint8 array "
                "(height, width) or (height, width, 3)"
            )
        return Image.fromarray(pixels)

    def labels(self) -> list[Any]:
        """Of all images: `targets`, if there is such a list of the right length, else of each."""
        values: Any = getattr(self.items, "targets", None)
        if isinstance(values, (np.ndarray, torch.Tensor)):
            values = values.tolist()
        if not isinstance(values, (list, tuple)) or len(values) != len(self):
            values = [self.item(row)[1] for row in range(len(self))]
        return [value if isinstance(value, str) else self._number(value) for value in values]

    def _number(self, label: Any) -> int:
        try:
            return operator.index(label)  # an int, one of numpy, a tensor of one
        except TypeError as error:
            raise InputError(
                f"a label of {self.split} is {str(label)[:60]!r}; pass class numbers, or names"
            ) from error


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)


def read_own(spec: str) -> RawData:
    """Call what `package.module:Name` stands for; it returns two data sets in PyTorch's sense.

    The first is learned from and the second reported on; items are (image, label). Class names are
    the first one's `classes`, if it has any.

    Raises:
        InputError: it cannot be imported or called, or returns something else.
    """
    made = _imported(spec)
    try:
        pair = made()
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"the data '{spec}' could not be made ({first_line(error)}); it is called without "
            "arguments"
        ) from error
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(_is_sized, pair)):
        raise InputError(
            f"the data '{spec}' returned {_told(pair)}; return (train, test), two data sets "
            "with a length whose items are (image, label)"
        )
    train, test = (OwnImages(items, name) for items, name in zip(pair, SPLITS, strict=True))
    values = train.labels()
    named = getattr(pair[0], "classes", None)
    numbered = not values or not isinstance(values[0], str)
    classes = list(named) if named is not None and not numbered else classes_of(values)
    if named is not None and numbered:
        classes = list(range(len(named)))
    labels = class_numbers(values, classes, "train"), class_numbers(test.labels(), classes, "test")
    names = [str(name) for name in (classes if named is None else named)]
    shown = printable_names(names)
    check_several(labels[0], shown)
    splits = [
        RawSplit(name=name, source=source, labels_N=labels_N)
        for name, source, labels_N in zip(SPLITS, (train, test), labels, strict=True)
    ]
    notes = notes_on_classes(classes, labels[0], named=False) if named is None else []
    return RawData(
        train=splits[0],
        test=splits[1],
        class_names=shown,
        notes=(*notes, *notes_on_names(names, shown)),
    )


SPLITS = ("train", "test")


def _told(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"{len(value)} of {', '.join(sorted({type(each).__name__ for each in value}))}"
    return f"a {type(value).__name__}"


def _is_sized(items: object) -> bool:
    return hasattr(items, "__len__") and hasattr(items, "__getitem__")


def _imported(spec: str) -> Callable[[], Any]:
    """The user's own function or class."""
    try:
        made = import_named(spec)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise InputError(
            f"the data '{spec}' cannot be imported ({first_line(error)}); pass {KNOWN}, with the "
            "module in this directory or on PYTHONPATH"
        ) from error
    if not callable(made):
        raise InputError(
            f"the data '{spec}' is a {type(made).__name__}; pass package.module:Name, a function "
            "or a class"
        )
    return made  # type: ignore[no-any-return]


KNOWN = "digits, parquet:DIR, hub:NAME, folder:DIR, or your own package.module:Name"


# From encoded splits to image sets: in memory where they fit, decoded on demand where not.


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """The user's choices; see `load_data`."""

    channels: int | None
    image_size: int | None
    skip_broken: bool
    in_memory_limit: int


def image_data(
    raw: RawData, building: Building, kept_in: Path | None = None
) -> tuple[ImageData, list[str], list[str]]:
    """Build both image sets; the first training image sets the size, all of them the colour.

    Images are read as the first one calls for; if one of them turns out to be in colour, or deeper
    than those before it, all are read anew, alike. Sets of one kind are read once.

    Returns:
        The data, the names of the images that were left out as broken, and what else the user
        should be told of the images.
    """
    decoding = _decoding(raw.train, building)
    limit = building.in_memory_limit
    in_memory = all(_fits(split, decoding.shape_CHW, limit) for split in (raw.train, raw.test))
    if kept_in is None or not in_memory:
        return _decoded(raw, building, decoding)
    how = asdict(building)
    return decoded_once(raw, how, kept_in, lambda: _decoded(raw, building, decoding))


def _decoded(raw: RawData, building: Building, decoding: Decoding) -> Decoded:
    """Build both image sets; see `image_data`."""
    while True:
        seen: Counter[str] = Counter()
        try:
            train, train_broken = _image_set(raw.train, decoding, building, seen)
            _check_classes_kept(raw, train)
            test, test_broken = _image_set(raw.test, decoding, building, seen)
            break
        except OutgrownError as error:
            decoding = _grown(decoding, error)
    ranges = decoding.ranges or Ranges()
    if ranges.unclear:
        raise InputError(f"the image {decoding.example} cannot be used: {unclear_floats()}")
    data = ImageData(train=train, test=test, class_names=raw.class_names, ranges=ranges)
    return data, train_broken + test_broken, _notes(seen, decoding, building)


def _grown(decoding: Decoding, error: OutgrownError) -> Decoding:
    """How to read all images so that the one that did not fit does."""
    if error.ranges is not None:
        return replace(decoding, ranges=error.ranges)
    return replace(decoding, shape_CHW=(3, *decoding.shape_CHW[1:]), only_grey=False)


def _notes(seen: Counter[str], decoding: Decoding, building: Building) -> list[str]:
    """What the user should be told of the images, in words."""
    notes = []
    if building.channels is None and seen["grey"] and seen["coloured"]:
        notes.append(
            f"{seen['grey']} of {seen['grey'] + seen['coloured']} images are grey and the others "
            "in colour, so all are read in colour (--channels 1 reads all as grey)"
        )
    if seen["frames"]:
        notes.append(f"of {seen['frames']} images with several frames or pages the first is read")
    ranges = decoding.ranges or Ranges()
    if ranges.integers != Ranges().integers:
        notes.append(f"images of 16 bits are read from the range 0 to {ranges.integers}")
    if ranges.signed or ranges.floats != Ranges().floats:
        low, high = (-1, 1) if ranges.signed else (0, ranges.floats)
        notes.append(f"images of floats are read from the range {low} to {high}")
    return notes


def _decoding(split: RawSplit, building: Building) -> Decoding:
    """Read channels, size and ranges from the first image that can be decoded."""
    ranges, row = Ranges(), 0
    while row < len(split.source):
        try:
            pixels = decode_free(split.source, row, building.channels, building.image_size, ranges)
        except OutgrownError as error:
            ranges = error.ranges or ranges
            continue
        except BrokenImageError:
            if not building.skip_broken:
                raise
            row += 1
            continue
        channels, height, width = pixels.shape
        return Decoding(
            shape_CHW=(channels, height, width),
            image_size=building.image_size,
            example=split.source.name(row),
            ranges=ranges,
            only_grey=channels == 1 and building.channels is None,
        )
    raise _nothing_left(split)


def _image_set(
    split: RawSplit, decoding: Decoding, building: Building, seen: Counter[str]
) -> tuple[ImageSet, list[str]]:
    in_memory = _fits(split, decoding.shape_CHW, building.in_memory_limit)
    make = _in_memory if in_memory else _on_demand
    images, rows_N = make(split, decoding, building.skip_broken, seen)
    if len(images) == 0:
        raise _nothing_left(split)
    broken = sorted(set(range(len(split.source))) - set(rows_N.tolist()))
    return images, [split.source.name(row) for row in broken]


def _in_memory(
    split: RawSplit, decoding: Decoding, skip_broken: bool, seen: Counter[str]
) -> tuple[ImageSet, torch.Tensor]:
    images_NCHW = np.empty((len(split.source), *decoding.shape_CHW), np.uint8)
    rows_N = _decodable(split.source, decoding, skip_broken, seen, images_NCHW)
    pixels_NCHW = torch.from_numpy(images_NCHW[: len(rows_N)])
    names = [split.source.name(row) for row in rows_N.tolist()]
    return MemoryImages(pixels_NCHW, split.labels_N[rows_N], names), rows_N


def _fits(split: RawSplit, shape_CHW: tuple[int, int, int], limit: int) -> bool:
    """Whether a decoded split has at most this many bytes."""
    return len(split.source) * math.prod(shape_CHW) <= limit


def _on_demand(
    split: RawSplit, decoding: Decoding, skip_broken: bool, seen: Counter[str]
) -> tuple[ImageSet, torch.Tensor]:
    rows_N = torch.arange(len(split.source))
    if skip_broken:
        rows_N = _decodable(split.source, decoding, skip_broken, seen)
    else:
        _check_headers(split.source, decoding, seen)
    return StreamedImages(split.source, rows_N, split.labels_N[rows_N], decoding), rows_N


def _decodable(
    source: ImageSource,
    decoding: Decoding,
    skip_broken: bool,
    seen: Counter[str],
    images_NCHW: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None = None,
) -> torch.Tensor:
    """Decode all images, keep the pixels if asked to, and return the rows that could be decoded."""
    rows: list[int] = []
    for row in range(len(source)):
        try:
            pixels = decode(source, row, decoding, seen)
        except BrokenImageError:
            if not skip_broken:
                raise
            continue
        if images_NCHW is not None:
            images_NCHW[len(rows)] = pixels
        rows.append(row)
    return torch.tensor(rows, dtype=torch.int64)


def _check_headers(source: ImageSource, decoding: Decoding, seen: Counter[str]) -> None:
    """Find images of another kind now, and not in the middle of an epoch.

    Headers tell colour and size. The values of images deeper than 8 bits must be looked at.
    """
    for row in range(len(source)):
        try:
            with source.open(row) as image:
                count(image, seen)
                check_colour(image, decoding)
                size_HW, deep = header_size(image), is_deep(image)
        except OutgrownError as error:
            raise outgrown(source, row, error) from error
        except Exception as error:  # Pillow's plugins raise almost anything on damaged bytes
            raise broken(source, row, error) from error
        if deep:
            decode(source, row, decoding)
        if decoding.image_size is None:
            check_size(source, row, size_HW, decoding)


def _check_classes_kept(raw: RawData, train: ImageSet) -> None:
    """Refuse a class that loses all of its training images, as it could not be learned."""
    lost = sorted(set(raw.train.labels_N.tolist()) - set(train.labels_N.tolist()))
    if lost:
        raise InputError(
            f"no training image of the {'class' if len(lost) == 1 else 'classes'} "
            f"{abridged([raw.class_names[k] for k in lost])} can be decoded; repair the images, or "
            "remove all images with this label from both splits"
        )


def _nothing_left(split: RawSplit) -> InputError:
    return InputError(
        f"none of the {len(split.source)} images of the {split.name} split can be decoded; "
        "check that they are images"
    )


def load_data(
    spec: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    skip_broken: bool = False,
    in_memory_limit: int = 2 * 2**30,
    kept_in: Path | None = None,
) -> ImageData:
    """Load a data set of labelled images.

    Args:
        spec: `digits`; `parquet:DIR` with train-*.parquet and test-*.parquet (or validation-*);
            `hub:NAME` of the Hugging Face hub; `folder:DIR` with a folder for each class, in
            DIR/train and DIR/test, or in DIR, of which a fixed fifth is then the test split;
            `package.module:Name`, a function or class of your own that is called without arguments
            and returns two data sets in PyTorch's sense, whose items are (image, label).
        image_column: Image column of a table; None finds it by its type.
        label_column: Label column of a table; None finds it by its type.
        image_size: Side in pixels of the square cut from the middle of each image, resized;
            None keeps the size, which all images must then share.
        channels: 1 (grey) or 3 (RGB); None for grey if all images are grey, and else RGB.
        skip_broken: Whether images that cannot be decoded are left out, with a warning. For sets
            that do not fit into memory this decodes every image once before training.
        in_memory_limit: Bytes; a split that is larger once decoded is decoded on demand.
        kept_in: Folder for the decoded images of files and tables, if both splits fit into memory:
            the next call with the same images maps them into memory in place of decoding them.
            None keeps nothing.

    Raises:
        InputError: The data cannot be used; the message says why and what to pass.

    Example:
        >>> data = load_data("digits", image_size=16)
        >>> len(data.train), len(data.test), data.shape_CHW, data.num_classes
        (1438, 359, (1, 16, 16), 10)
    """
    if image_size is not None:
        check_in_range("image_size", image_size, 1)
    if channels not in (None, 1, 3):
        raise InputError(f"channels is {channels}; pass 1 for grey or 3 for RGB")
    raw = _read(spec, image_column, label_column)
    building = Building(
        channels=channels,
        image_size=image_size,
        skip_broken=skip_broken,
        in_memory_limit=in_memory_limit,
    )
    data, broken, notes = image_data(raw, building, kept_in)
    if broken:
        warnings.warn(
            f"{len(broken)} of the {len(raw.train.source) + len(raw.test.source)} images cannot be "
            f"decoded and are left out; the first is {broken[0]}",
            stacklevel=2,
        )
    if told := [*raw.notes, *notes]:
        warnings.warn(f"of {spec}: {'; '.join(told)}", stacklevel=2)
    return data


def check_spec(spec: str) -> None:
    """Raise InputError for data of no known kind, or in a folder that is not there.

    It reads nothing, so that a mistake is reported before anything slow.

    Example:
        >>> check_spec("digits")
    """
    scheme, _, place = spec.partition(":")
    if is_own(spec):
        _imported(spec)
    elif spec != "digits" and not (place and scheme in SCHEMES):
        raise InputError(f"the data '{spec}' is unknown; pass {KNOWN}")
    if scheme in {"parquet", "folder"} and not _is_folder(place):
        holds = {
            "folder": "one that holds a folder for each class",
            "parquet": "the folder that holds train-*.parquet",
        }[scheme]
        raise InputError(f"the folder {place} does not exist; pass {holds}")


SCHEMES = {"parquet", "hub", "folder"}


def is_own(spec: str) -> bool:
    """Whether the name of data stands for code of the user's own, which is imported and called.

    Example:
        >>> is_own("mine.pets:Pets"), is_own("folder:pets"), is_own("digits")
        (True, False, False)
    """
    module, _, name = spec.partition(":")
    parts = [*module.split("."), *name.split(".")]
    return module not in SCHEMES and all(part.isidentifier() for part in parts)


def _is_folder(place: str) -> bool:
    try:
        return Path(place).expanduser().is_dir()
    except (OSError, RuntimeError):  # too long a name, or the home of nobody
        return False


def _read(spec: str, image_column: str | None, label_column: str | None) -> RawData:
    check_spec(spec)
    scheme, _, place = spec.partition(":")
    if place and scheme in {"parquet", "hub"}:
        from selfexplain.data import (
            tables as table_readers,  # here, for `datasets` takes a second to import
        )

        if scheme == "hub":
            return table_readers.read_hub(place, image_column, label_column)
        return table_readers.read_parquet(Path(place).expanduser(), image_column, label_column)
    if image_column is not None or label_column is not None:
        raise InputError(
            "--image-column and --label-column (image_column, label_column) are for parquet: and "
            f"hub: only; leave them out for '{spec}'"
        )
    if is_own(spec):
        return read_own(spec)
    if place and scheme == "folder":
        return read_folder(Path(place).expanduser())
    return read_digits()
