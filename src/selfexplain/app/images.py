"""Image files from strangers: bytes become pixels of a model's shape, or one clear sentence.

Nothing is decoded before its header was checked. Shape suffixes: C channels, H height, W width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from selfexplain.data.opening import MAX_PIXELS, NAMES, open_image
from selfexplain.data.pixels import Ranges, is_deep, to_array
from selfexplain.errors import InputError

MAX_BYTES = 10_000_000
"""Largest file that is looked at, in bytes."""


def open_upload(content: bytes) -> Image.Image:
    """Check the bytes of an image file, and decode it: of an animation, its first frame.

    Raises:
        InputError: the file is empty, too large, of no format that is read, declares too many
            pixels, or is damaged.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (9, 5)).save(file, "PNG")
        >>> open_upload(file.getvalue()).size
        (9, 5)
    """
    if len(content) > MAX_BYTES:
        raise InputError(
            f"the file has {len(content) / 1e6:.1f} MB; pass one of at most {MAX_BYTES / 1e6:g} MB"
        )
    with _one_sentence():
        image = open_image(content)
        if is_deep(image):
            to_array(image, 1)  # which decodes it, and leaves the image as it is
        else:
            image.load()
    return image


def to_shape(
    image: Image.Image, shape_CHW: tuple[int, int, int], ranges: Ranges | None = None
) -> Tensor:
    """An image as uint8 (C, H, W), upright, brought to the shape that a model was trained on.

    A square is cut from the middle and resized, as in training on images of many sizes; where the
    model's images are not square, the image must have their size.

    Args:
        image: as `open_upload` returns it.
        shape_CHW: of the images that the model was trained on.
        ranges: what their values were scaled by if they had more than 8 bits; None takes what the
            image calls for.

    Raises:
        InputError: the image cannot be converted, or has not the size that is needed.

    Example:
        >>> to_shape(Image.new("CMYK", (90, 50)), (1, 8, 8)).shape
        torch.Size([1, 8, 8])
    """
    channels, height, width = shape_CHW
    with _one_sentence():
        array = to_array(image, channels, height if height == width else None, ranges)
    if array.shape != shape_CHW:
        raise InputError(
            f"the image is {array.shape[1]} x {array.shape[2]} pixels (height x width), and this "
            f"model takes {height} x {width}; pass an image of that size"
        )
    return torch.from_numpy(array.copy())


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Whatever Pillow raises becomes a sentence that says nothing of this machine."""
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(
            f"the file is no image that can be read here, whatever its name says; pass a {NAMES} "
            "file"
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"the image declares far too many pixels; pass one of at most {MAX_PIXELS / 1e6:g} "
            "million pixels"
        ) from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes
        raise InputError(
            "the image is damaged or cut off and cannot be decoded; pass a whole file"
        ) from error
