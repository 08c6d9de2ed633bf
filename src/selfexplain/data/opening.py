"""The only place where image files and encoded images are opened, whatever their source.

Images come from strangers. So a file must be a plain file, only the decoders of `FORMATS` see its
bytes (whatever its name says), and its header is checked before a pixel is decoded: nothing is run,
nothing blocks, and a small file cannot ask for gigabytes.
"""

import io
import stat
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path

from PIL import Image

from selfexplain.errors import InputError

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif",),
}
"""Pillow's name of each format that is read, and the endings of its files.

The formats of torchvision's `ImageFolder`, and those of the web. TIFF is there for images of more
than 8 bits. Formats that start another program (EPS, WMF) or hardly occur are left out: each
decoder is one more that strangers' bytes can try. AVIF needs a Pillow that has it.
"""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
"""Endings of the files that are taken for images, in lower case."""
NAMES = "PNG, JPEG, WebP, GIF, BMP, TIFF, PPM or AVIF"
"""The formats in the words of a message."""
MAX_PIXELS = 50_000_000
"""Largest image that is decoded, width times height: 150 MB in colour.

A program with larger images may set it, before it loads them: `opening.MAX_PIXELS = 200_000_000`.
"""
MAX_FILE_BYTES = 8 * MAX_PIXELS
"""Largest file that is opened: the largest image, uncompressed, at 8 bytes a pixel."""

_TILE_WIDTH, _TILE_HEIGHT, _BITS, _SIGN, _PHOTOMETRIC = 322, 323, 258, 339, 262  # tags of TIFF
_ORIENTATION, _PLANES = 274, 284
_QUARTER_TURNS = {5, 6, 7, 8}
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_image(file: Path | bytes) -> Image.Image:
    """Open an image file, or its bytes, and check its header; no pixel is decoded yet.

    Of an animation or a file of several pages the first image is opened.

    Raises:
        InputError: it is no plain file, is empty or too large, or declares too many pixels.
        OSError: the file cannot be opened, or is of no format that is read.

    Example:
        >>> encoded = io.BytesIO()
        >>> Image.new("L", (9, 5)).save(encoded, "PNG")
        >>> open_image(encoded.getvalue()).size
        (9, 5)
    """
    if isinstance(file, bytes):
        _check_length(len(file))
        image: Image.Image = Image.open(io.BytesIO(file), formats=_decoders())
    else:
        check_plain(file)
        image = Image.open(file, formats=_decoders())
        if image.format == "TIFF" and image.getexif().get(_ORIENTATION) in _QUARTER_TURNS:
            # Pillow maps such a file into memory with height and width exchanged: noise.
            image.close()
            return open_image(file.read_bytes())
    try:
        _check_header(image)
    except InputError:
        image.close()
        raise
    return image


def check_plain(path: Path) -> None:
    """Raise InputError unless `path` is a plain file with something in it; nothing is opened.

    Opening a pipe would wait for ever, and a device or a file of /proc has no end or no size.
    """
    status = path.stat()
    for is_kind, kind in _KINDS:
        if is_kind(status.st_mode):
            raise InputError(f"it is {kind}; pass an image file")
    _check_length(status.st_size)


def lies_below(path: Path, folders: Iterable[Path]) -> bool:
    """Say whether a file lies in one of some folders, wherever links and .. in its name lead to.

    A table from an untrusted source may name files, but only its own.

    Example:
        >>> lies_below(Path("/data/../etc/passwd"), [Path("/data")])
        False
    """
    try:
        found = path.resolve()
        return any(found.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, RuntimeError, ValueError):  # circles of links, names that no file can have
        return False


@cache
def _decoders() -> tuple[str, ...]:
    """The formats that this Pillow has, their decoders imported and no others."""
    for name in FORMATS:
        try:
            import_module(f"PIL.{_PLUGINS.get(name, name.capitalize())}ImagePlugin")
        except ImportError:  # AVIF came with Pillow 11.3
            continue
    return tuple(name for name in FORMATS if name in Image.OPEN)


_PLUGINS = {"WEBP": "WebP"}  # where the module is not called as the format


def _check_length(count: int) -> None:
    if count == 0:
        raise InputError("the file is empty; pass an image file")
    if count > MAX_FILE_BYTES:
        raise InputError(
            f"the file has {count / 1e6:.0f} MB; pass one of at most {MAX_FILE_BYTES / 1e6:g} MB"
        )


def _check_header(image: Image.Image) -> None:
    check_pixels(image.width, image.height)
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return
    # A tile is decoded whole, however little of it the image shows.
    tile = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_HEIGHT, 1)
    if tile != (1, 1):
        check_pixels(*tile)
    bits = max(tags.get(_BITS, (1,)))
    if bits == 8 and 2 in tags.get(_SIGN, (1,)):
        raise InputError("its pixels are signed 8-bit numbers; convert them to unsigned ones")
    if bits > 8 and tags.get(_PLANES) == 2:
        # Pillow reads each plane as if it had 8 bits.
        raise InputError(
            f"it stores its {bits}-bit channels in separate planes; save them interleaved"
        )
    if bits > 8 and tags.get(_PHOTOMETRIC) == 0:
        # Pillow inverts up to 8 bits; of more, nothing says which number is black.
        raise InputError(f"its {bits}-bit pixels store white as 0; save it with black as 0")


def check_pixels(width: int, height: int) -> None:
    """Raise InputError if an image is too large to be decoded."""
    if width * height > MAX_PIXELS:
        raise InputError(
            f"the image is {width} x {height} pixels; pass one of at most {MAX_PIXELS / 1e6:g} "
            "million pixels"
        )
