"""What networks of any space ask of their numbers; without torch, for the command line."""

from typing import Literal

from selfexplain.errors import InputError

Form = Literal["small", "imagenet"]
"""For images of about 32 pixels, or of about 224."""


def check_numbers(**numbers: int) -> None:
    """Raise InputError unless every number is at least 1.

    Example:
        >>> check_numbers(channels=16, cells=8)
    """
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} is {number}; pass a number of at least 1")


def check_divisible(what: str, channels: int, unit: int) -> None:
    """Raise InputError unless the channels can be split as the operations do.

    Example:
        >>> check_divisible("pcdarts", 16, 8)
    """
    if channels % unit:
        raise InputError(
            f"channels is {channels}, which {what} cannot split; pass a multiple of {unit}"
        )


def check_image_size(image_size: int, halvings: int) -> None:
    """Raise InputError unless images of this size can be halved so many times without a rest.

    Example:
        >>> check_image_size(8, halvings=2)
    """
    unit = 2**halvings
    if image_size < unit or image_size % unit:
        raise InputError(
            f"image_size is {image_size}, and this network halves its features {halvings} "
            f"time{'s' * (halvings > 1)}; pass a multiple of {unit}"
        )


def check_probability(probability: float) -> None:
    """Raise InputError unless the probability is in [0, 1).

    Example:
        >>> check_probability(0.2)
    """
    if not 0 <= probability < 1:
        raise InputError(f"drop_path is {probability:g}; pass a number from 0 to below 1")
