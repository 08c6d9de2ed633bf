"""Images as tensors: how pixels of any depth become uint8, and the set held in memory."""

import io
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from selfexplain.errors import InputError

# Send small tensors to a GPU without waiting for it.


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return the tensor on a device.

    An ordinary copy to a GPU waits until the GPU has done all that was asked of it before; from
    pinned memory it takes its turn, and the program goes on.

    Example:
        >>> to_device(torch.arange(3), "cpu")
        tensor([0, 1, 2])
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


# From a Pillow image of any mode to uint8 pixels, channels first.
#
# Images of 8 bits keep their values. Those of more (16 and 32 bits, floats) are brought to 0..255
# by one range for the whole data set, the smallest of a few that holds all of its values: see
# `Ranges`.


INTEGER_TOPS = (255, 1023, 4095, 16383, 65535)
"""Largest value of 8, 10, 12, 14 and 16 bits, the depths that sensors and files have."""
FLOAT_TOPS = (1, 15, *INTEGER_TOPS)
"""The same for floats, and before them 0..1. No format ends at 15; see `Ranges.unclear`."""

EXIF_ORIENTATION = 0x0112
"""Tag of how an image must be turned to stand upright."""
_UNCLEAR = 15
# How the bytes of a 16-bit sample lie, and the raw mode that reads the other one of the two.
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Which values of images deeper than 8 bits become black and white, for a whole data set.

    Attributes:
        integers: Value that becomes white in images of whole numbers, one of `INTEGER_TOPS`.
        floats: The same in images of floats, one of `FLOAT_TOPS`; up to 1, values are shares.
        signed: Whether black is -1 in images of floats; white is 1 then.

    Example:
        >>> Ranges().holding(np.array([0, 4000])).integers
        4095
    """

    integers: int = INTEGER_TOPS[0]
    floats: int = FLOAT_TOPS[0]
    signed: bool = False

    @classmethod
    def recorded(cls, record: Any) -> "Ranges | None":
        """The ranges that the record of a run states; None if it states none that can be read.

        Example:
            >>> Ranges.recorded({"integers": 4095, "floats": 1, "signed": False}).integers
            4095
        """
        try:
            ranges = cls(**record)
        except TypeError:
            return None
        known = ranges.integers in INTEGER_TOPS and ranges.floats in FLOAT_TOPS
        return ranges if known and isinstance(ranges.signed, bool) else None

    @property
    def unclear(self) -> bool:
        """Whether floats are larger than shares and smaller than grey levels of any format."""
        return self.floats == _UNCLEAR

    def holding(self, values: NDArray[Any]) -> "Ranges":
        """The smallest ranges that hold these and `values`, too.

        Raises:
            InputError: no range holds them, or one is not finite.
        """
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError("it has values that are NaN or infinite")
        if values.dtype.kind != "f":
            if low < 0 or high > INTEGER_TOPS[-1]:
                raise _out_of_range(low, high, f"0 to {INTEGER_TOPS[-1]}")
            return replace(self, integers=_top(INTEGER_TOPS, max(high, self.integers)))
        signed = self.signed or low < 0
        if low < -1 or high > (1 if signed else FLOAT_TOPS[-1]) or (signed and self.floats > 1):
            raise _out_of_range(
                low, high, f"0 to 1, -1 to 1, or 0 to {FLOAT_TOPS[-1]}, the same for all"
            )
        return replace(self, floats=_top(FLOAT_TOPS, max(high, self.floats)), signed=signed)

    def eight_bits(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Scale values, which these ranges hold, to 0..255.

        Whole numbers lose their last bits: 65535 and 4095 of 12 bits become 255, and half becomes
        128. Shares are rounded; other floats are rounded to whole numbers first.

        Example:
            >>> Ranges(integers=4095).eight_bits(np.array([0, 2048, 4095])).tolist()
            [0, 128, 255]
            >>> Ranges(signed=True).eight_bits(np.array([-1.0, 0.25, 1.0])).tolist()
            [0, 159, 255]
        """
        if values.dtype.kind != "f":
            return _shifted(values, self.integers)
        if self.signed:
            return _rounded((values + 1) * 127.5)
        if self.floats == 1:
            return _rounded(values * 255)
        return _shifted(np.rint(values), self.floats)


class OutgrownError(InputError):
    """An image does not fit how the others were read; all can be read anew as it says.

    Attributes:
        ranges: The ranges that hold this image, too; None if it is its colour that does not fit.

    Example:
        >>> OutgrownError("it is deeper", Ranges(integers=4095)).ranges.integers
        4095
    """

    def __init__(self, message: str, ranges: Ranges | None) -> None:
        super().__init__(message)
        self.ranges = ranges


def native_channels(image: Image.Image) -> int:
    """Say how many channels an image calls for: 1 for grey of any depth, or black and white."""
    return 1 if image.mode in {"1", "L", "F"} or image.mode.startswith("I") else 3


def is_deep(image: Image.Image) -> bool:
    """Say whether the pixels of an image have more than 8 bits in its file.

    Example:
        >>> is_deep(Image.new("F", (8, 8))), is_deep(Image.new("RGB", (8, 8)))
        (True, False)
    """
    return image.mode == "F" or image.mode.startswith("I") or _deep_colour(image) is not None


def to_array(
    image: Image.Image,
    channels: int,
    image_size: int | None = None,
    ranges: Ranges | None = None,
) -> NDArray[np.uint8]:
    """Turn a Pillow image upright, convert it, resize it, and lay it out as channels first.

    Args:
        image: Any Pillow image; transparent pixels are laid on black.
        channels: 1 (grey) or 3 (RGB).
        image_size: Side in pixels of the square that is cut from the middle and resized with an
            antialiased bilinear filter; None keeps the size.
        ranges: Ranges of the data set that images of more than 8 bits are scaled by; None takes
            those that this image calls for.

    Returns:
        uint8 array (C, H, W).

    Raises:
        OutgrownError: the ranges do not hold the values of this image.
        InputError: no range holds them.

    Example:
        >>> to_array(Image.new("RGB", (9, 5), (255, 0, 0)), channels=3, image_size=4)[:, 0, 0]
        array([255,   0,   0], dtype=uint8)
    """
    image = _eight_bits(image, ranges)
    ImageOps.exif_transpose(image, in_place=True)
    image = _on_black(image).convert("L" if channels == 1 else "RGB")
    if image_size is not None:
        # Cutting before resizing costs no memory on very long images.
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _eight_bits(image: Image.Image, ranges: Ranges | None) -> Image.Image:
    """Scale an image of more than 8 bits; Pillow's own conversion clips, or drops, the rest."""
    if not is_deep(image):
        return image
    values, orientation = _deep_values(image)
    # How transparent pixels are says nothing of the range that the others have.
    has_alpha = values.ndim == 3 and values.shape[2] == 4 and image.mode == "RGBA"
    levels = values[..., :3] if has_alpha else values
    found = (ranges or Ranges()).holding(levels)
    if ranges is not None and found != ranges:
        raise OutgrownError(
            f"it has values from {levels.min():g} to {levels.max():g}, and the other images have "
            "a smaller range; scale them alike",
            found,
        )
    if ranges is None and found.unclear:
        raise unclear_floats()
    eight = found.eight_bits(levels)
    if has_alpha:
        alpha_HW1 = values[..., 3:]
        opacity = Ranges(integers=found.integers).holding(alpha_HW1)
        eight = np.concatenate([eight, opacity.eight_bits(alpha_HW1)], axis=-1)
    clear = _clear(values, image.info.get("transparency"))
    if clear is not None:
        eight[clear] = 0
    mode = "L" if eight.ndim == 2 else "RGB" if eight.shape[2] == 3 else image.mode
    scaled = Image.frombytes(mode, (eight.shape[1], eight.shape[0]), eight.tobytes())
    if orientation is not None:
        scaled.getexif()[EXIF_ORIENTATION] = orientation
    return scaled


def unclear_floats() -> InputError:
    """The message about floats that are neither shares nor grey levels."""
    return InputError(
        f"its float values exceed 1 but not {_UNCLEAR}, so their range is ambiguous; scale them to "
        "0..1"
    )


def _deep_values(image: Image.Image) -> tuple[NDArray[Any], int | None]:
    """The values of an image of more than 8 bits, (H, W) or (H, W, channels), and how it is turned.

    Pillow has no mode for 16 bits a colour: it keeps the upper byte of each. So such an image is
    decoded twice, with raw modes that take other bytes.
    """
    deep = _deep_colour(image)
    if deep is None:
        values = np.asarray(image)  # before its orientation, for of TIFF Pillow turns it now
        return values, image.getexif().get(EXIF_ORIENTATION)
    file = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    file.seek(0)
    encoded = file.read()
    file.seek(place)
    first, second = (Image.open(io.BytesIO(encoded), formats=(str(image.format),)) for _ in "12")
    for decoded, raw_mode in ((first, deep.first), (second, deep.second)):
        if raw_mode is not None:
            decoded.tile = [_with_raw_mode(tile, raw_mode) for tile in decoded.tile]
    if deep.grey:  # its two channels of two bytes each, read as four of one
        pairs = np.asarray(second).astype(np.int32)
        grey_HW, alpha_HW = (pairs[..., k] << 8 | pairs[..., k + 1] for k in (0, 2))
        values = np.stack([grey_HW] * 3 + [alpha_HW], axis=-1)
    else:
        values = np.asarray(first).astype(np.int32) << 8 | np.asarray(second)
    # On black, on which it will be laid, a premultiplied image is what its colours are.
    return values[..., :3] if deep.premultiplied else values, first.getexif().get(EXIF_ORIENTATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeepColour:
    """The raw modes to decode an image of 16 bits a channel with; None for its own."""

    first: str | None = None
    second: str
    grey: bool = False
    premultiplied: bool = False


def _deep_colour(image: Image.Image) -> _DeepColour | None:
    """How to decode an image with colour or transparency of 16 bits; None if it is none."""
    tiles = getattr(image, "tile", None)
    names = {_raw_mode(tile) for tile in tiles or ()}
    deep = {name for name in names if ";16" in name}
    if not deep or image.mode not in {"RGB", "RGBA", "CMYK", "LA", "La"}:
        return None
    name = names.pop()
    layout, _, order = name.partition(";16")
    known = {image.mode: image.mode, "RGBX": "RGBX", "RGBa": "RGBA"}
    if not names and name == "LA;16B" and image.mode == "RGBA":
        return _DeepColour(second="RGBA", grey=True)
    if names or layout not in known or order not in _OTHER_BYTE:
        raise InputError(
            f"its 16-bit pixel layout ({name}) is not supported; convert it to a 16-bit PNG, or to "
            "8 bits"
        )
    read = known[layout]
    return _DeepColour(
        first=f"{read};16{order}",
        second=f"{read};16{_OTHER_BYTE[order]}",
        premultiplied=layout == "RGBa",
    )


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    codec, extents, offset, arguments = tile
    changed = (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode
    replaced = (codec, extents, offset, changed)
    return tile._make(replaced) if hasattr(tile, "_make") else replaced


def _shifted(numbers: NDArray[Any], top: int) -> NDArray[np.uint8]:
    """The upper 8 of the bits that whole numbers up to `top` have."""
    upper = numbers.astype(np.int32) >> max(0, top.bit_length() - 8)
    eight: NDArray[np.uint8] = upper.astype(np.uint8)
    return eight


def _rounded(levels: NDArray[Any]) -> NDArray[np.uint8]:
    eight: NDArray[np.uint8] = np.rint(levels).astype(np.uint8)
    return eight


def _clear(values: NDArray[Any], transparent: Any) -> NDArray[np.bool_] | None:
    """Which pixels (H, W) have the one colour that a PNG file declares transparent."""
    if transparent is None or isinstance(transparent, bytes):
        return None
    # One grey level, or one colour: pixels are equal to it in every channel.
    same = np.atleast_3d(values == np.asarray(transparent))
    everywhere: NDArray[np.bool_] = same.min(axis=2)
    return everywhere


def _top(tops: tuple[int, ...], high: float) -> int:
    return next(top for top in tops if high <= top)


def _out_of_range(low: float, high: float, known: str) -> InputError:
    return InputError(
        f"its values range from {low:g} to {high:g}, but images of its kind have {known}; rescale "
        "them"
    )


def _on_black(image: Image.Image) -> Image.Image:
    """Lay a transparent image on black; plain conversion would uncover its hidden colours."""
    if image.mode == "La":  # which Pillow converts to LA alone
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)


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
    def name(self, index: int) -> str:
        """Name an image so that the user can find it; empty where that is not known."""

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
        names: Of the images, if they are known.

    Raises:
        InputError: The two do not fit together.

    Example:
        >>> images = MemoryImages(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
        >>> images.subset(torch.tensor([4, 0])).labels_N
        tensor([4, 0])
        >>> images.read(torch.tensor([1, 2, 2])).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self, images_NCHW: torch.Tensor, labels_N: torch.Tensor, names: Sequence[str] = ()
    ) -> None:
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
        self.names = names

    def name(self, index: int) -> str:
        """Name an image."""
        return self.names[index] if self.names else ""

    def read(self, indices_B: torch.Tensor) -> torch.Tensor:
        """Copy out images, on the device where they lie."""
        return self.images_NCHW.index_select(0, to_device(indices_B, self.images_NCHW.device))

    def subset(self, indices: torch.Tensor) -> "MemoryImages":
        """Copy out a set."""
        names = [self.names[i] for i in indices.tolist()] if self.names else ()
        return MemoryImages(self.read(indices), self.labels_N[indices.cpu()], names)

    def to(self, device: torch.device | str) -> "MemoryImages":
        """Return this set with its images on `device`; its labels stay on the CPU."""
        return MemoryImages(self.images_NCHW.to(device), self.labels_N, self.names)


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
