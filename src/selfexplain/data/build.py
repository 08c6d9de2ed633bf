"""From encoded splits to image sets: in memory where they fit, decoded on demand where not."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from selfexplain.data.decode import (
    BrokenImageError,
    Decoding,
    check_size,
    decode,
    decode_free,
    header_size,
)
from selfexplain.data.images import ImageData, ImageSet, MemoryImages
from selfexplain.data.labels import abridged
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


def image_data(raw: RawData, building: Building) -> tuple[ImageData, list[str]]:
    """Build both image sets; the first training image sets channels and size.

    Returns:
        The data, and the names of the images that were left out as broken.

    Raises:
        InputError: An image cannot be decoded or has another size than the first, or all training
            images of a class are broken.

    Example:
        >>> from selfexplain.data.digits import read_digits
        >>> choices = Building(channels=3, image_size=4, skip_broken=False, in_memory_limit=2**30)
        >>> data, broken = image_data(read_digits(), choices)
        >>> data.shape_CHW, broken
        ((3, 4, 4), [])
    """
    decoding = _decoding(raw.train, building)
    train, train_broken = _image_set(raw.train, decoding, building)
    _check_classes_kept(raw, train)
    test, test_broken = _image_set(raw.test, decoding, building)
    data = ImageData(train=train, test=test, class_names=raw.class_names)
    return data, train_broken + test_broken


def _decoding(split: RawSplit, building: Building) -> Decoding:
    """Read channels and size from the first image that can be decoded."""
    for row in range(len(split.source)):
        try:
            pixels = decode_free(split.source, row, building.channels, building.image_size)
        except BrokenImageError:
            if not building.skip_broken:
                raise
            continue
        channels, height, width = pixels.shape
        return Decoding(
            shape_CHW=(channels, height, width),
            image_size=building.image_size,
            example=split.source.name(row),
        )
    raise _nothing_left(split)


def _image_set(
    split: RawSplit, decoding: Decoding, building: Building
) -> tuple[ImageSet, list[str]]:
    fits = len(split.source) * math.prod(decoding.shape_CHW) <= building.in_memory_limit
    make = _in_memory if fits else _on_demand
    images, rows_N = make(split, decoding, building.skip_broken)
    if len(images) == 0:
        raise _nothing_left(split)
    broken = sorted(set(range(len(split.source))) - set(rows_N.tolist()))
    return images, [split.source.name(row) for row in broken]


def _in_memory(
    split: RawSplit, decoding: Decoding, skip_broken: bool
) -> tuple[ImageSet, torch.Tensor]:
    images_NCHW = np.empty((len(split.source), *decoding.shape_CHW), np.uint8)
    rows_N = _decodable(split.source, decoding, skip_broken, images_NCHW)
    images = MemoryImages(torch.from_numpy(images_NCHW[: len(rows_N)]), split.labels_N[rows_N])
    return images, rows_N


def _on_demand(
    split: RawSplit, decoding: Decoding, skip_broken: bool
) -> tuple[ImageSet, torch.Tensor]:
    rows_N = torch.arange(len(split.source))
    if skip_broken:
        rows_N = _decodable(split.source, decoding, skip_broken)
    elif decoding.image_size is None:
        _check_headers(split.source, decoding)
    return StreamedImages(split.source, rows_N, split.labels_N[rows_N], decoding), rows_N


def _decodable(
    source: Source,
    decoding: Decoding,
    skip_broken: bool,
    images_NCHW: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None = None,
) -> torch.Tensor:
    """Decode all images, keep the pixels if asked to, and return the rows that could be decoded."""
    rows: list[int] = []
    for row in range(len(source)):
        try:
            pixels = decode(source, row, decoding)
        except BrokenImageError:
            if not skip_broken:
                raise
            continue
        if images_NCHW is not None:
            images_NCHW[len(rows)] = pixels
        rows.append(row)
    return torch.tensor(rows, dtype=torch.int64)


def _check_headers(source: Source, decoding: Decoding) -> None:
    """Find images of another size now, and not in the middle of an epoch."""
    for row in range(len(source)):
        try:
            with source.open(row) as image:
                size_HW = header_size(image)
        except Exception:  # noqa: S112 - what cannot be opened is reported when it is read
            continue
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
