"""From encoded splits to image sets: in memory where they fit, decoded on demand where not."""

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch

from selfexplain.data.decode import (
    BrokenImageError,
    Decoding,
    broken,
    check_colour,
    check_size,
    count,
    decode,
    decode_free,
    header_size,
    outgrown,
)
from selfexplain.data.images import ImageData, ImageSet, MemoryImages
from selfexplain.data.labels import abridged
from selfexplain.data.pixels import OutgrownError, Ranges, is_deep, unclear_floats
from selfexplain.data.sources import RawData, RawSplit, Source
from selfexplain.data.streamed import StreamedImages
from selfexplain.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """The user's choices; see `load_data`.

    Example:
        >>> Building(channels=3, image_size=None, skip_broken=False, in_memory_limit=2**30).channels
        3
    """

    channels: int | None
    image_size: int | None
    skip_broken: bool
    in_memory_limit: int


def image_data(raw: RawData, building: Building) -> tuple[ImageData, list[str], list[str]]:
    """Build both image sets; the first training image sets the size, all of them the colour.

    Images are read as the first one calls for; if one of them turns out to be in colour, or deeper
    than those before it, all are read anew, alike. Sets of one kind are read once.

    Returns:
        The data, the names of the images that were left out as broken, and what else the user
        should be told of the images.

    Raises:
        InputError: An image cannot be decoded or has another size than the first, or all training
            images of a class are broken.

    Example:
        >>> from selfexplain.data.digits import read_digits
        >>> choices = Building(channels=3, image_size=4, skip_broken=False, in_memory_limit=2**30)
        >>> data, broken, notes = image_data(read_digits(), choices)
        >>> data.shape_CHW, broken, notes
        ((3, 4, 4), [], [])
    """
    decoding = _decoding(raw.train, building)
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
    """How all images are read so that the one that did not fit does."""
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
    fits = len(split.source) * math.prod(decoding.shape_CHW) <= building.in_memory_limit
    make = _in_memory if fits else _on_demand
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
    images = MemoryImages(torch.from_numpy(images_NCHW[: len(rows_N)]), split.labels_N[rows_N])
    return images, rows_N


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
    source: Source,
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


def _check_headers(source: Source, decoding: Decoding, seen: Counter[str]) -> None:
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
    """Refuse that a class loses all of its training images, for it could not be learned."""
    lost = sorted(set(raw.train.labels_N.tolist()) - set(train.labels_N.tolist()))
    if lost:
        raise InputError(
            "none of the training images can be decoded of the "
            f"{'class' if len(lost) == 1 else 'classes'} "
            f"{abridged([raw.class_names[k] for k in lost])}; repair them, or remove what is "
            "labelled so from both splits"
        )


def _nothing_left(split: RawSplit) -> InputError:
    return InputError(
        f"none of the {len(split.source)} images of the {split.name} split can be decoded; "
        "check that they are images"
    )
