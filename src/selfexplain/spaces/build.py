"""Supernets by the name of their space."""

import difflib

from selfexplain.errors import InputError
from selfexplain.spaces.space import SPACES, check_image_size, check_numbers
from selfexplain.spaces.supernet import Supernet


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
        space: nasbench201 (Dong and Yang 2020), darts (Liu et al. 2019) or pcdarts (Xu et al.
            2020).
        num_classes: number of classes K.
        in_channels: channels C of the images.
        image_size: height and width of the images.
        channels: channels of the first cells: even for darts, divisible by 8 for pcdarts.
        cells: nasbench201: cells of each of the three stages, None for 5; darts and pcdarts: cells
            of the whole network, at least 3, None for 8; those at one and two thirds reduce.

    Returns:
        A supernet that maps images (B, C, H, W) and an architecture to logits (B, K).

    Raises:
        InputError: the space is unknown, a number is below 1, the channels do not divide, or the
            images are too small or do not halve as often as the network reduces.

    Example:
        >>> supernet = build_supernet(
        ...     "darts", num_classes=10, in_channels=1, image_size=8, channels=4, cells=3
        ... )
        >>> {name: tuple(a.shape) for name, a in supernet.new_architecture().items()}
        {'normal': (14, 8), 'reduce': (14, 8)}
    """
    if space not in SPACES:
        near = difflib.get_close_matches(space, SPACES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"there is no space {space!r}{hint}; pass one of {', '.join(SPACES)}")
    chosen = SPACES[space]
    cells = chosen.supernet_cells if cells is None else cells
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "channels": channels}
    check_numbers(**sizes, cells=cells)
    for problem in (chosen.cells_problem(cells), chosen.channels_problem(channels)):
        if problem:
            raise InputError(problem)
    check_image_size(image_size, chosen.halvings(cells, "small"))
    return chosen.supernet(**sizes, image_size=image_size, cells=cells)
