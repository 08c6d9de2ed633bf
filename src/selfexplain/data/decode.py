"""One encoded image becomes one uint8 array.

Shape letters, here and in the whole package: N images of a set, B of a batch, C channels,
H height, W width. Pixel values are 0 to 255.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from selfexplain.data.opening import NAMES
from selfexplain.data.pixels import (
    EXIF_ORIENTATION,
    OutgrownError,
    Ranges,
    native_channels,
    to_array,
)
from selfexplain.data.sources import Source
from selfexplain.errors import InputError

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

    Example:
        >>> Decoding(shape_CHW=(1, 8, 8), image_size=None, example="train row 0").shape_CHW
        (1, 8, 8)
    """

    shape_CHW: tuple[int, int, int]
    image_size: int | None
    example: str
    ranges: Ranges | None = None
    only_grey: bool = False


def decode(
    source: Source, row: int, decoding: Decoding, seen: Counter[str] | None = None
) -> NDArray[np.uint8]:
    """Decode image `row` of a source to a uint8 array (C, H, W).

    Args:
        source: The encoded images.
        row: Which of them.
        decoding: The shape to decode to.
        seen: Where to count what the image is; see `count`.

    Raises:
        BrokenImageError: The image cannot be decoded.
        OutgrownError: It is deeper than the ranges of the set, or in colour and must not be.
        InputError: Its size differs from the others' and no image_size was given.

    Example:
        >>> from selfexplain.data.sources import Arrays
        >>> rule = Decoding(shape_CHW=(1, 8, 8), image_size=None, example="digit 0")
        >>> decode(Arrays(np.zeros((5, 8, 8), np.uint8)), 3, rule).shape
        (1, 8, 8)
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
    source: Source,
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
        >>> from selfexplain.data.sources import Arrays
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


def broken(source: Source, row: int, error: Exception) -> BrokenImageError:
    """What is said of an image that cannot be decoded.

    Example:
        >>> from selfexplain.data.sources import Arrays
        >>> str(broken(Arrays(np.zeros((5, 8, 8), np.uint8)), 3, InputError("it is empty")))
        'the image number 3 cannot be decoded (it is empty); replace or remove it, or pass ...
    """
    reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    if isinstance(error, UnidentifiedImageError):  # Pillow names the address of an object
        reason = f"it is no {NAMES} file, whatever its name says"
    return BrokenImageError(
        f"the image {source.name(row)} cannot be decoded ({reason}); "
        "replace or remove it, or pass --skip-broken (skip_broken=True)"
    )


def outgrown(source: Source, row: int, error: OutgrownError) -> OutgrownError:
    """The same error, which names the image, too.

    Example:
        >>> from selfexplain.data.sources import Arrays
        >>> source = Arrays(np.zeros((5, 8, 8), np.uint8))
        >>> str(outgrown(source, 3, OutgrownError("it is in colour", None)))
        'the image number 3 does not fit the others: it is in colour'
    """
    return OutgrownError(
        f"the image {source.name(row)} does not fit the others: {error}", error.ranges
    )


def count(image: Image.Image, seen: Counter[str]) -> None:
    """Count an image as grey or coloured, and whether there is more in its file than is read.

    Example:
        >>> seen = Counter()
        >>> count(Image.new("L", (9, 5)), seen)
        >>> seen
        Counter({'grey': 1})
    """
    seen["grey" if native_channels(image) == 1 else "coloured"] += 1
    # What follows a photograph in an MPO file are smaller copies of it.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        seen["frames"] += 1


def check_colour(image: Image.Image, decoding: Decoding) -> None:
    """Raise OutgrownError if an image in colour would be read as grey, though nobody asked for it.

    Example:
        >>> rule = Decoding(shape_CHW=(1, 8, 8), image_size=None, example="digit 0")
        >>> check_colour(Image.new("RGB", (8, 8)), rule)
    """
    if decoding.only_grey and native_channels(image) == 3:
        raise OutgrownError("it is in colour, and the images before it are grey", None)


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
    if image.format == "TIFF":  # Pillow turns it itself, and gives the size of what it will load
        return image.height, image.width
    # To look for what hardly ever follows a PNG's pixels, Pillow would decode them all.
    unknown = image.format == "PNG" and "exif" not in image.info
    turned = not unknown and image.getexif().get(EXIF_ORIENTATION) in _QUARTER_TURNS
    return (image.width, image.height) if turned else (image.height, image.width)
