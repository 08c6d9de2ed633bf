"""Where features and space lie in a layer's output (B batch, F features, H W space, T tokens)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfexplain.errors import InputError


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """Tokens that are ``prefix`` class or register tokens, then patches row by row.

    Example:
        >>> TokenGrid(prefix=1, height=14, width=14).tokens
        197
    """

    prefix: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """The number of all tokens."""
        return self.prefix + self.height * self.width


def token_grid(tokens: int, height: int, width: int) -> TokenGrid | None:
    """Return the grid of ``tokens`` tokens of an image, or None where there is none.

    The patch size is an integer p that divides both sides. Of the grids that fit, the one with the
    fewest prefix tokens is taken; one with fewer patches than prefix tokens is no grid.

    Args:
        tokens: number of tokens, prefix tokens included.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Example:
        >>> token_grid(197, 224, 224)
        TokenGrid(prefix=1, height=14, width=14)
    """
    for p in range(1, min(height, width) + 1):
        h, w = height // p, width // p
        if height % p == 0 and width % p == 0 and 1 < h * w <= tokens < 2 * h * w:
            return TokenGrid(tokens - h * w, h, w)
    return None


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read a layer's output: the order of its axes, its width, and the grid of its tokens.

    Example:
        >>> Layout("BCHW", 8).fits(torch.zeros(2, 8, 4, 4)), Layout("BTD", 8).channel_axis
        (True, 2)
    """

    axes: Literal["BCHW", "BHWC", "BTD"]
    channels: int
    grid: TokenGrid | None = None

    @property
    def channel_axis(self) -> int:
        """The axis that holds the features."""
        return {"BCHW": 1, "BHWC": 3, "BTD": 2}[self.axes]

    def fits(self, output: object) -> bool:
        """Tell whether ``output`` is a tensor of this layout with more than one position."""
        if not isinstance(output, Tensor) or output.dim() != len(self.axes):
            return False
        size = output.shape
        return size[self.channel_axis] == self.channels and size[1:].numel() > self.channels


def layouts_of(output: object, image_BCHW: torch.Size) -> list[Layout]:
    """List the layouts that ``output`` may have for a batch of images of shape ``image_BCHW``.

    The conventional one (features first, or tokens) comes first; the list is empty for outputs
    without space, such as vectors, a single position, or windows in place of whole images.

    Example:
        >>> [lay.axes for lay in layouts_of(torch.zeros(2, 8, 4, 4), torch.Size([2, 3, 9, 9]))]
        ['BCHW', 'BHWC']
    """
    batch, _, height, width = image_BCHW
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return []
    if output.dim() == 0 or len(output) != batch:
        return []
    found: list[Layout] = []
    if output.dim() == 4:
        found = [Layout("BCHW", output.shape[1]), Layout("BHWC", output.shape[3])]
    elif output.dim() == 3:
        grid = token_grid(output.shape[1], height, width)
        found = [Layout("BTD", output.shape[2], grid)] if grid else []
    return found if found and found[0].fits(output) else []


def to_BFHW(activation: Tensor, layout: Layout) -> Tensor:
    """View an activation as (B, F, H, W); prefix tokens are left out.

    Raises:
        InputError: if there are more or fewer tokens than the layout was found with.

    Example:
        >>> to_BFHW(torch.zeros(2, 17, 8), Layout("BTD", 8, TokenGrid(1, 4, 4))).shape
        torch.Size([2, 8, 4, 4])
    """
    if layout.axes == "BCHW":
        return activation
    if layout.axes == "BHWC":
        return activation.permute(0, 3, 1, 2)
    grid = layout.grid
    assert grid is not None, "token layouts are made with their grid"
    if activation.shape[1] != grid.tokens:
        raise InputError(
            f"the layer gave {activation.shape[1]} tokens where {grid.tokens} were expected; "
            "call find_explained_layer with images of this size"
        )
    patches_BTD = activation[:, grid.prefix :]
    patches_BHWD = patches_BTD.reshape(-1, grid.height, grid.width, layout.channels)
    return patches_BHWD.permute(0, 3, 1, 2)


def pooled(activation: Tensor, layout: Layout) -> Tensor:
    """Average an activation over its positions: (B, F).

    Example:
        >>> pooled(torch.ones(2, 8, 4, 4), Layout("BCHW", 8)).shape
        torch.Size([2, 8])
    """
    return to_BFHW(activation, layout).mean((2, 3))
