"""From a Pillow image of any mode to uint8 pixels, channels first."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def native_channels(image: Image.Image) -> int:
    """Say how many channels an image calls for: 1 for grey (8 or 16 bits, or black and white).

    Example:
        >>> native_channels(Image.new("L", (8, 8))), native_channels(Image.new("P", (8, 8)))
        (1, 3)
    """
    return 1 if image.mode in {"1", "L"} or image.mode.startswith("I") else 3


def to_array(image: Image.Image, channels: int, image_size: int | None = None) -> NDArray[np.uint8]:
    """Turn a Pillow image upright, convert it, resize it, and lay it out as channels first.

    Args:
        image: Any Pillow image; transparent pixels are laid on black.
        channels: 1 (grey) or 3 (RGB).
        image_size: Side in pixels of the square that is cut from the middle and resized with an
            antialiased bilinear filter; None keeps the size.

    Returns:
        uint8 array (C, H, W).

    Example:
        >>> to_array(Image.new("RGB", (9, 5), (255, 0, 0)), channels=3, image_size=4)[:, 0, 0]
        array([255,   0,   0], dtype=uint8)
    """
    ImageOps.exif_transpose(image, in_place=True)
    image = _on_black(_eight_bits(image)).convert("L" if channels == 1 else "RGB")
    if image_size is not None:
        # Cutting before resizing costs no memory on very long images.
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion clips everything above 255 to white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def _on_black(image: Image.Image) -> Image.Image:
    """Lay a transparent image on black; plain conversion would uncover its hidden colours."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
