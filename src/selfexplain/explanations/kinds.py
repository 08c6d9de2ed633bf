"""The kinds of class maps, and the checks of what users pass (B batch, C channels, K classes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from selfexplain.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


MapKind = Literal["cam", "grad_cam", "feature_x_gradient", "gradient", "input_x_gradient"]
KINDS: tuple[MapKind, ...] = get_args(MapKind)

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
    from torch import Tensor

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
    """Return the class indices asked for; all of them where ``classes`` is None.

    Raises:
        InputError: if there are none, or one is not in 0 .. ``n_classes`` - 1.

    Example:
        >>> check_classes(None, 3), check_classes([2, 0], 3)
        ([0, 1, 2], [2, 0])
    """
    chosen = list(range(n_classes)) if classes is None else [int(k) for k in classes]
    outside = [k for k in chosen if not 0 <= k < n_classes]
    if outside or not chosen:
        raise InputError(
            f"classes {outside or chosen} cannot be used; "
            f"pass class indices from 0 to {n_classes - 1}, or None for all"
        )
    return chosen
