"""One encoded image becomes one uint8 array.

Shape letters, here and in the whole package: N images of a set, B of a batch, C channels,
H height, W width. Pixel values are 0 to 255.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selfexplain.data.pixels import native_channels, to_array
from selfexplain.data.sources import Source
from selfexplain.errors import InputError

_EXIF_ORIENTATION = 0x0112
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

    Example:
        >>> Decoding(shape_CHW=(1, 8, 8), image_size=None, example="train row 0").shape_CHW
        (1, 8, 8)
    """

    shape_CHW: tuple[int, int, int]
    image_size: int | None
    example: str


def decode(source: Source, row: int, decoding: Decoding) -> NDArray[np.uint8]:
    """Decode image `row` of a source to a uint8 array (C, H, W).

    Raises:
        BrokenImageError: The image cannot be decoded.
        InputError: Its size differs from the others' and no image_size was given.

    Example:
        >>> from selfexplain.data.sources import Arrays
        >>> rule = Decoding(shape_CHW=(1, 8, 8), image_size=None, example="digit 0")
        >>> decode(Arrays(np.zeros((5, 8, 8), np.uint8)), 3, rule).shape
        (1, 8, 8)
    """
    pixels = decode_free(source, row, decoding.shape_CHW[0], decoding.image_size)
    check_size(source, row, (pixels.shape[1], pixels.shape[2]), decoding)
    return pixels


def decode_free(
    source: Source, row: int, channels: int | None, image_size: int | None
) -> NDArray[np.uint8]:
    """Decode image `row` whatever its size; `channels=None` takes as many as it calls for.

    Raises:
        BrokenImageError: The image cannot be decoded.

    Example:
        >>> from selfexplain.data.sources import Arrays
        >>> decode_free(Arrays(np.zeros((5, 8, 8), np.uint8)), 3, None, 16).shape
        (1, 16, 16)
    """
    try:
        with source.open(row) as image:
            return to_array(image, channels or native_channels(image), image_size)
    except Exception as error:  # Pillow's plugins raise almost anything on damaged bytes
        raise BrokenImageError(
            f"the image {source.name(row)} cannot be decoded ({type(error).__name__}: {error}); "
            "replace or remove it, or pass --skip-broken (skip_broken=True)"
        ) from error


def check_size(source: Source, row: int, size_HW: tuple[int, int], decoding: Decoding) -> None:
    """Raise InputError if image `row` has another height or width than the data set.

    Example:
        >>> from selfexplain.data.sources import Arrays
        >>> rule = Decoding(shape_CHW=(1, 8, 8), image_size=None, example="digit 0")
        >>> check_size(Arrays(np.zeros((5, 8, 8), np.uint8)), 3, (8, 8), rule)
    """
    expected_HW = decoding.shape_CHW[1:]
    if size_HW != expected_HW:
        raise InputError(
            f"images differ in size: {decoding.example} is {expected_HW[0]} x {expected_HW[1]} "
            f"pixels (height x width), {source.name(row)} is {size_HW[0]} x {size_HW[1]}; "
            "pass --image-size (image_size) to bring all to one size"
        )


def header_size(image: Image.Image) -> tuple[int, int]:
    """Read (height, width) of the upright image from its header, without decoding pixels.

    Example:
        >>> header_size(Image.new("L", (9, 5)))
        (5, 9)
    """
    # Pillow decodes a whole PNG to look for an orientation, and PNG files hardly ever have one.
    orientation = 1 if image.format == "PNG" else image.getexif().get(_EXIF_ORIENTATION)
    turned = orientation in _QUARTER_TURNS
    return (image.width, image.height) if turned else (image.height, image.width)
