"""Shapes: of images and logits, and where features and space lie in a layer's output.

B batch, C channels, F features, H W space, K classes, T tokens.
"""

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from selfexplain.errors import InputError
from selfexplain.explanations import KINDS, MapKind

# Which tensor of a forward is explained, and names of layers that survive wrappers.


# DDP, Fabric and torch.compile put the model of the user one attribute deeper.
WRAPPERS = ("module", "_forward_module", "_orig_mod")


@dataclass(frozen=True, slots=True)
class TensorSource:
    """Where a tensor shows in a forward.

    ``input``: what module ``name`` is called with. ``output``: what it returns. ``function``: the
    last tensor of the right shape that a function is given between the end of module ``name`` and
    the head. The name of the model itself is ``""``.

    Example:
        >>> TensorSource("output", "layer4").name
        'layer4'
    """

    at: Literal["input", "output", "function"]
    name: str


def plain_name(name: str) -> str:
    """Return a module's name without the prefixes of wrappers."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def find_module(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return the full name and the module that ``name`` means, with or without wrappers' prefixes.

    Raises:
        InputError: if there is none; the message lists near names, or the first if none is near.

    Example:
        >>> find_module(nn.Sequential(nn.Flatten()), "module.0")
        ('0', Flatten(start_dim=1, end_dim=-1))
    """
    modules = dict(model.named_modules())
    if name in modules:
        return name, modules[name]
    plain = {plain_name(full): full for full in modules}
    full = plain.get(plain_name(name))
    if full is None or not name:
        names = [n for n in plain if n]
        near = difflib.get_close_matches(plain_name(name), names, n=3, cutoff=0.4) or names[:3]
        raise InputError(
            f"layer {name!r} is not in the model; pass a name of model.named_modules()"
            + (f", such as {', '.join(map(repr, near))}" if near else "")
        )
    return full, modules[full]


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """Tokens that are ``prefix`` class or register tokens, then patches row by row."""

    prefix: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """The number of all tokens."""
        return self.prefix + self.height * self.width


def token_grid(tokens: int, height: int, width: int) -> TokenGrid | None:
    """The grid of this many tokens of an image of this size, or None where there is none.

    The patch size is an integer p that divides both sides. Of the grids that fit, the one with the
    fewest prefix tokens is taken; one with fewer patches than prefix tokens is no grid.
    """
    for p in range(1, min(height, width) + 1):
        h, w = height // p, width // p
        if height % p == 0 and width % p == 0 and 1 < h * w <= tokens < 2 * h * w:
            return TokenGrid(tokens - h * w, h, w)
    return None


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """How to read a layer's output: the order of its axes, its width, and the grid of its tokens.

    Example:
        >>> FeatureLayout("BCHW", 8).fits(torch.zeros(2, 8, 4, 4))
        True
        >>> FeatureLayout("BTD", 8).channel_axis
        2
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


def layouts_of(output: object, image_BCHW: torch.Size) -> list[FeatureLayout]:
    """List the layouts that ``output`` may have for a batch of images of shape ``image_BCHW``.

    The conventional one (features first, or tokens) comes first, unless only the other one has the
    proportions of the images. The list is empty for outputs without space, such as vectors, a
    single position, or windows in place of whole images.

    Example:
        >>> [lay.axes for lay in layouts_of(torch.zeros(2, 8, 4, 4), torch.Size([2, 3, 9, 9]))]
        ['BCHW', 'BHWC']
    """
    batch, _, height, width = image_BCHW
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return []
    if output.dim() == 0 or output.shape[0] != batch:
        return []
    found: list[FeatureLayout] = []
    if output.dim() == 4:
        found = [FeatureLayout("BCHW", output.shape[1]), FeatureLayout("BHWC", output.shape[3])]
        if not like_image(output.shape[2:], image_BCHW) and like_image(
            output.shape[1:3], image_BCHW
        ):
            found.reverse()
    elif output.dim() == 3:
        grid = token_grid(output.shape[1], height, width)
        found = [FeatureLayout("BTD", output.shape[2], grid)] if grid else []
    return found if found and found[0].fits(output) else []


def like_image(sides: Sequence[int], image_BCHW: torch.Size) -> bool:
    """Tell whether a height and a width have the proportions of the images, but for rounding."""
    (h, w), (height, width) = sides, image_BCHW[2:]
    return abs(h * width - w * height) <= max(height, width)


def known_grids(
    layouts: list[FeatureLayout], outputs: Collection[object], image_BCHW: torch.Size
) -> list[FeatureLayout]:
    """Leave out grids of tokens that contradict the feature maps which tokens are made of.

    The number of tokens alone may fit another grid: 5 x 5 patches are as many tokens as 4 x 4 and
    nine registers.

    Args:
        layouts: of one output.
        outputs: of modules of the same model.
        image_BCHW: the shape of the images.

    Example:
        >>> layouts = [FeatureLayout("BTD", 8, TokenGrid(0, 5, 5))]
        >>> image_BCHW = torch.Size([2, 3, 70, 70])
        >>> patches = [torch.zeros(2, 8, 4, 4), torch.zeros(2, 25, 8)]
        >>> [len(known_grids(layouts, seen, image_BCHW)) for seen in ([], patches)]
        [1, 0]
    """
    return [layout for layout in layouts if _is_known(layout, outputs, image_BCHW)]


def _is_known(layout: FeatureLayout, outputs: Collection[object], image_BCHW: torch.Size) -> bool:
    grid = layout.grid
    if grid is None:
        return True
    maps, sequences = maps_among(outputs, image_BCHW), sequences_of(outputs, image_BCHW)
    widths = {d for n, d in sequences if n == grid.tokens}
    sides = [(h, w) for c, h, w in maps if c in widths and 1 < h * w <= grid.tokens < 2 * h * w]
    return not sides or (grid.height, grid.width) in sides


def maps_among(outputs: Iterable[object], image_BCHW: torch.Size) -> set[tuple[int, int, int]]:
    """Channels, height and width of the outputs (B, C, H, W) with the proportions of the images."""
    return {
        (output.shape[1], output.shape[2], output.shape[3])
        for output in outputs
        if isinstance(output, Tensor)
        and output.dim() == 4
        and len(output) == image_BCHW[0]
        and like_image(output.shape[2:], image_BCHW)
    }


def sequences_of(outputs: Iterable[object], image_BCHW: torch.Size) -> set[tuple[int, int]]:
    """Length and width of the outputs that are sequences (B, N, D), flattened maps left out.

    The one query of an attention pool is a sequence of one.
    """
    outputs = list(outputs)
    flattened = {(c, h * w) for c, h, w in maps_among(outputs, image_BCHW)}
    found = {
        (output.shape[1], output.shape[2])
        for output in outputs
        if isinstance(output, Tensor) and output.dim() == 3 and len(output) == image_BCHW[0]
    }
    return {(n, d) for n, d in found if (n, d) not in flattened}


def is_of_heads(
    output: Tensor,
    tokens: Iterable[FeatureLayout],
    sequences: Iterable[tuple[int, int]],
    image_BCHW: torch.Size,
) -> bool:
    """Tell what attention heads compute from a feature map of the same rank.

    Weights are (B, heads, N, N); queries, keys and values are (B, heads, N, D), with two of the
    axes exchanged or not.
    """
    if output.dim() != 4:
        return False
    counts = {layout.grid.tokens for layout in tokens if layout.grid}
    return output.shape[2] in counts or any(
        _is_of_heads(output.shape[1:], n, d, image_BCHW) for n, d in sequences
    )


def _is_of_heads(size: torch.Size, n: int, d: int, image_BCHW: torch.Size) -> bool:
    if size[1] == size[2] == n:
        return True
    # A map may have a side of one, or as many channels as there are tokens.
    parts = n in (size[1:] if n > 1 else size) or n == size[0]
    parts = parts and (1 < n in size[1:] or not like_image(size[1:], image_BCHW))
    return parts and d % (size.numel() // n) == 0


def no_positions(name: str, returned: str, image_BCHW: torch.Size) -> InputError:
    """Make the error for a layer whose output has no positions."""
    return InputError(
        f"layer {name!r} returns {returned}, which has no spatial positions; pass a layer that "
        "returns (B, C, H, W), or tokens (B, T, D) in a grid that fits images of "
        f"{image_BCHW[2]} x {image_BCHW[3]} pixels"
    )


def to_BFHW(activation: Tensor, layout: FeatureLayout) -> Tensor:
    """View an activation as (B, F, H, W); prefix tokens are left out.

    Raises:
        InputError: if there are more or fewer tokens than the layout was found with.

    Example:
        >>> to_BFHW(torch.zeros(2, 17, 8), FeatureLayout("BTD", 8, TokenGrid(1, 4, 4))).shape
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
            f"the layer returned {activation.shape[1]} tokens instead of {grid.tokens}; "
            "call find_explained_layer with images of this size"
        )
    patches_BTD = activation[:, grid.prefix :]
    patches_BHWD = patches_BTD.reshape(-1, grid.height, grid.width, layout.channels)
    return patches_BHWD.permute(0, 3, 1, 2)


def pooled(activation: Tensor, layout: FeatureLayout) -> Tensor:
    """Average an activation over its positions: (B, F)."""
    return to_BFHW(activation, layout).mean((2, 3))


@dataclass(frozen=True, slots=True)
class PooledHead:
    """A linear head on the spatial mean of a feature map.

    Attributes:
        linear: the layer whose output is the logits.
        name: its name in the model.
        source: where the feature map shows in a forward.
        layout: how to read the feature map.
        layers: names of all modules that return that very feature map; none where it is the result
            of a function.
    """

    linear: nn.Linear
    name: str
    source: TensorSource
    layout: FeatureLayout
    layers: tuple[str, ...]


# What the search for the layer to explain finds.
@dataclass(frozen=True, slots=True)
class ExplainedLayer:
    """Where the explained activation shows in a forward, and how maps are made of it.

    It holds names, not the model: it also serves copies and wrapped versions of the model.

    Attributes:
        source: where the activation shows.
        layout: how to read it.
        head: the linear head that it is averaged into; None if maps need backward passes.

    Example:
        >>> ExplainedLayer(TensorSource("output", "layer3"), FeatureLayout("BCHW", 8)).source.name
        'layer3'
    """

    source: TensorSource
    layout: FeatureLayout
    head: PooledHead | None = None


# Checks of what users pass, and of what their models return.


# With a spatial mean under a linear head the gradient is w_k / (H W): these need no backward pass.
POOLED_KINDS: tuple[MapKind, ...] = ("cam", "grad_cam", "feature_x_gradient")


def check_kind(kind: MapKind) -> MapKind:
    """Return ``kind`` if there is such a kind of map.

    Raises:
        InputError: if there is not; the message lists the kinds.

    Example:
        >>> check_kind("cam")
        'cam'
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is unknown; pass one of {', '.join(KINDS)}")
    return kind


def check_images(x_BCHW: Tensor) -> None:
    """Raise ``InputError`` unless ``x_BCHW`` is a floating-point batch of at least one image.

    Example:
        >>> import torch
        >>> check_images(torch.zeros(2, 3, 8, 8))
    """
    if x_BCHW.dim() != 4 or x_BCHW.numel() == 0 or not x_BCHW.is_floating_point():
        raise InputError(
            f"x has shape {tuple(x_BCHW.shape)} and type {x_BCHW.dtype}; "
            "pass floating-point images of shape (B, C, H, W)"
        )


def check_output(output: object, batch: int) -> Tensor:
    """Return what a model returned if it is a floating-point tensor of shape (``batch``, K).

    Raises:
        InputError: if it is not; the message says what the model returned.

    Example:
        >>> import torch
        >>> check_output(torch.zeros(2, 10), batch=2).shape
        torch.Size([2, 10])
    """
    if not isinstance(output, Tensor):
        raise InputError(
            f"the model returned a {type(output).__name__}; it must return logits, one tensor of "
            "shape (batch, classes)"
        )
    if output.dim() != 2 or len(output) != batch or not output.is_floating_point():
        raise InputError(
            f"the model returned {output.dtype} of shape {tuple(output.shape)} for a batch of "
            f"{batch}; it must return floating-point logits of shape ({batch}, classes)"
        )
    return output


def check_classes(classes: Sequence[int] | None, n_classes: int) -> list[int]:
    """The class indices asked for, checked; all ``n_classes`` of them where ``classes`` is None."""
    chosen = list(range(n_classes)) if classes is None else [int(k) for k in classes]
    outside = [k for k in chosen if not 0 <= k < n_classes]
    if outside or not chosen:
        raise InputError(
            f"classes {outside or chosen} cannot be used; "
            f"pass class indices from 0 to {n_classes - 1}, or None for all"
        )
    return chosen


def refuse_what_is_not_finite(model: nn.Module, x_BCHW: Tensor, logits_BK: Tensor) -> None:
    """Raise ``InputError`` if images, weights or logits are not finite."""
    refuse_broken_images(x_BCHW)
    refuse_broken_weights(model)
    if not bool(logits_BK.isfinite().all()):
        raise InputError(
            "the model's logits are not finite, though its weights and the images are; pass "
            "smaller values, or a model of a wider type, such as float32"
        )


def refuse_broken_images(x_BCHW: Tensor) -> None:
    """Raise ``InputError`` if a pixel is not finite."""
    broken_B = ~x_BCHW.detach().isfinite().flatten(1).all(dim=1)
    if bool(broken_B.any()):
        raise InputError(
            f"x contains NaN or infinite pixels (in image {int(broken_B.nonzero()[0])} of the "
            "batch); pass finite images"
        )


def refuse_broken_weights(model: nn.Module) -> None:
    """Raise ``InputError`` if a parameter or buffer is not finite."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            continue
        # A mask of attention may hold minus infinity.
        if bool((tensor.isnan() if "mask" in name else ~tensor.isfinite()).any()):
            raise InputError(
                f"the model's {name!r} contains NaN or infinite values; pass a model whose weights "
                "are finite"
            )
