"""Supernets by the name of their space."""

import difflib

from selfexplain.errors import InputError
from selfexplain.spaces.nasbench201 import NASBench201Supernet
from selfexplain.spaces.supernet import Supernet

SPACES = ("nasbench201",)
"""The spaces that can be searched."""


def build_supernet(
    space: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    channels: int = 16,
    cells: int | None = None,
) -> Supernet:
    """Build the untrained supernet of a space; its weights come from torch's global generator.

    Args:
        space: nasbench201 (Dong and Yang 2020).
        num_classes: number of classes K.
        in_channels: channels C of the images.
        image_size: height and width of the images.
        channels: channels of the first cells.
        cells: nasbench201: cells of each of the three stages, None for 5.

    Returns:
        A supernet that maps images (B, C, H, W) and an architecture to logits (B, K).

    Raises:
        InputError: the space is unknown, a number is below 1, or the images are too small or do not
            halve as often as the space needs.

    Example:
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=10, in_channels=3, image_size=32, channels=4, cells=1
        ... )
        >>> supernet.family
        'nasbench201'
    """
    if space not in SPACES:
        near = difflib.get_close_matches(space, SPACES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"there is no space {space!r}{hint}; pass one of {', '.join(SPACES)}")
    cells = 5 if cells is None else cells
    check_numbers(num_classes=num_classes, in_channels=in_channels, channels=channels, cells=cells)
    check_image_size(image_size, halvings=2)
    return NASBench201Supernet(
        num_classes=num_classes, in_channels=in_channels, channels=channels, cells=cells
    )


def check_numbers(**numbers: int) -> None:
    """Raise InputError unless every number is at least 1.

    Example:
        >>> check_numbers(channels=16, cells=8)
    """
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} is {number}; pass a number of at least 1")


def check_image_size(image_size: int, *, halvings: int) -> None:
    """Raise InputError unless images of this size can be halved so many times without a rest.

    Example:
        >>> check_image_size(8, halvings=2)
    """
    unit = 2**halvings
    if image_size < unit or image_size % unit:
        raise InputError(
            f"image_size is {image_size}, and this network halves its features {halvings} times "
            f"without a rest; pass a multiple of {unit}"
        )
