"""TrivialAugment and RandAugment for batches of uint8 images, on the device where they lie.

Each image gets operations of its own, drawn on the CPU. The operations are those of Pillow, with
which both papers were made: Cubuk et al. 2020, "RandAugment", and Müller and Hutter 2021,
"TrivialAugment" (its wide space, which is also ours for RandAugment).

Shape suffixes: B images, C channels, H and W space, G images that get the same operation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from selfexplain.errors import InputError

Policy = Literal["none", "trivial", "rand"]
"""none; trivial: one operation of a random strength; rand: two operations of one strength."""

GRAY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in brightness (ITU-R 601-2), as in Pillow's mode L."""


def shear_x(amount_G: Tensor, height: int, width: int) -> Tensor:
    """Move rows sideways, `amount` pixels a row from the top: matrices (G, 2, 3) in pixels."""
    del height, width
    return _matrix(amount_G, 1.0, amount_G, 0.0, 0.0, 1.0, 0.0)


def shear_y(amount_G: Tensor, height: int, width: int) -> Tensor:
    """Move columns up or down, `amount` pixels a column from the left."""
    del height, width
    return _matrix(amount_G, 1.0, 0.0, 0.0, amount_G, 1.0, 0.0)


def translate_x(amount_G: Tensor, height: int, width: int) -> Tensor:
    """Move to the left by a share of the width."""
    del height
    return _matrix(amount_G, 1.0, 0.0, (amount_G * width).trunc(), 0.0, 1.0, 0.0)


def translate_y(amount_G: Tensor, height: int, width: int) -> Tensor:
    """Move up by a share of the height."""
    del width
    return _matrix(amount_G, 1.0, 0.0, 0.0, 0.0, 1.0, (amount_G * height).trunc())


def rotate(amount_G: Tensor, height: int, width: int) -> Tensor:
    """Rotate about the centre by this many degrees, counter-clockwise."""
    angle_G = -amount_G * math.pi / 180
    cos_G, sin_G = angle_G.cos(), angle_G.sin()
    x, y = width / 2, height / 2
    return _matrix(
        amount_G,
        cos_G,
        sin_G,
        x - cos_G * x - sin_G * y,
        -sin_G,
        cos_G,
        y + sin_G * x - cos_G * y,
    )


def _matrix(like_G: Tensor, *entries: float | Tensor) -> Tensor:
    columns = [torch.as_tensor(entry).to(like_G).expand_as(like_G) for entry in entries]
    return torch.stack(columns, dim=1).reshape(-1, 2, 3)


def warp(images_BCHW: Tensor, matrix_B23: Tensor) -> Tensor:
    """Each pixel from the place that its matrix sends it to, nearest neighbour, black outside.

    The matrices map (x, y, 1) of the result to (x, y) of the source, in pixels from the corner, as
    Pillow's `Image.transform` takes it.
    """
    B, C, H, W = images_BCHW.shape
    device = images_BCHW.device
    x_W, y_H = (torch.arange(side, device=device) + 0.5 for side in (W, H))
    places = torch.stack(
        [x_W.expand(H, W), y_H.unsqueeze(1).expand(H, W), torch.ones(H, W, device=device)]
    )
    source_B2P = (matrix_B23.double() @ places.flatten(1).double()).floor()
    x_BP, y_BP = source_B2P[:, 0], source_B2P[:, 1]
    inside_BP = (x_BP >= 0) & (x_BP < W) & (y_BP >= 0) & (y_BP < H)
    index_BP = (y_BP.clamp(0, H - 1) * W + x_BP.clamp(0, W - 1)).long()
    index_BCP = index_BP.unsqueeze(1).expand(B, C, -1)
    moved_BCP = images_BCHW.flatten(2).gather(2, index_BCP)
    return moved_BCP.masked_fill(~inside_BP.unsqueeze(1), 0).reshape(B, C, H, W)


def brightness(x_GCHW: Tensor, amount_G: Tensor) -> Tensor:
    """Blend with black: 1 + amount times the image."""
    return _blended(torch.zeros_like(x_GCHW), x_GCHW, amount_G)


def colour(x_GCHW: Tensor, amount_G: Tensor) -> Tensor:
    """Blend with the image's shades of grey."""
    return _blended(_gray(x_GCHW).expand_as(x_GCHW), x_GCHW, amount_G)


def contrast(x_GCHW: Tensor, amount_G: Tensor) -> Tensor:
    """Blend with the mean shade of grey."""
    mean_G111 = (_gray(x_GCHW).mean(dim=(1, 2, 3), keepdim=True) + 0.5).floor()
    return _blended(mean_G111.expand_as(x_GCHW), x_GCHW, amount_G)


def sharpness(x_GCHW: Tensor, amount_G: Tensor) -> Tensor:
    """Blend with a smoothed image, whose border is not smoothed."""
    channels = x_GCHW.shape[1]
    if min(x_GCHW.shape[2:]) < 3:
        return x_GCHW
    kernel_HW = torch.ones(3, 3, device=x_GCHW.device)
    kernel_HW[1, 1] = 5
    kernel = (kernel_HW / 13).expand(channels, 1, 3, 3)
    smooth_GCHW = x_GCHW.clone()
    inner = F.conv2d(x_GCHW, kernel, groups=channels)
    smooth_GCHW[:, :, 1:-1, 1:-1] = (inner + 0.5).floor()
    return _blended(smooth_GCHW, x_GCHW, amount_G)


def posterize(x_GCHW: Tensor, amount_G: Tensor) -> Tensor:
    """Keep the 8 - amount upper bits."""
    step_G111 = (2.0 ** amount_G.round())[:, None, None, None]
    return (x_GCHW / step_G111).floor() * step_G111


def solarize(x_GCHW: Tensor, amount_G: Tensor) -> Tensor:
    """Invert all pixels that are at least 256 (1 - amount)."""
    threshold_G111 = (256 * (1 - amount_G))[:, None, None, None]
    return torch.where(x_GCHW < threshold_G111, x_GCHW, 255 - x_GCHW)


def autocontrast(x_GCHW: Tensor, amount_G: Tensor) -> Tensor:
    """Stretch each channel from 0 to 255."""
    del amount_G
    low_GC11, high_GC11 = x_GCHW.amin((2, 3), keepdim=True), x_GCHW.amax((2, 3), keepdim=True)
    scale_GC11 = 255 / (high_GC11 - low_GC11)
    # As Pillow: scale and offset first, cut off where it makes whole numbers.
    stretched = (x_GCHW * scale_GC11 - low_GC11 * scale_GC11).clamp(0, 255).floor()
    return torch.where(high_GC11 > low_GC11, stretched, x_GCHW)


def equalize(x_GCHW: Tensor, amount_G: Tensor) -> Tensor:
    """Give all shades of each channel about equally many pixels."""
    del amount_G
    G, C, H, W = x_GCHW.shape
    shades_MP = x_GCHW.reshape(G * C, H * W).long()
    counts_MS = torch.zeros(G * C, 256, device=x_GCHW.device, dtype=torch.int64)
    counts_MS.scatter_add_(1, shades_MP, torch.ones_like(shades_MP))
    # What lies below a shade, in steps of a 255th of the pixels that are not of the last shade.
    last_M = 255 - (counts_MS.flip(1) > 0).int().argmax(1)
    step_M1 = (H * W - counts_MS.gather(1, last_M.unsqueeze(1))) // 255
    below_MS = counts_MS.cumsum(1) - counts_MS
    table_MS = ((below_MS + step_M1 // 2) // step_M1.clamp_min(1)).clamp_max(255)
    equal_MP = table_MS.gather(1, shades_MP).to(x_GCHW)
    return torch.where(step_M1 > 0, equal_MP, shades_MP.to(x_GCHW)).reshape(x_GCHW.shape)


def _gray(x_GCHW: Tensor) -> Tensor:
    """Shades of grey (G, 1, H, W), whole numbers; of other than three channels, their mean."""
    if x_GCHW.shape[1] != 3:
        return (x_GCHW.mean(1, keepdim=True) + 0.5).floor()
    share_C11 = torch.tensor(GRAY, device=x_GCHW.device)[:, None, None]
    return ((x_GCHW * share_C11).sum(1, keepdim=True) + 0.5).floor()


def _blended(other_GCHW: Tensor, x_GCHW: Tensor, amount_G: Tensor) -> Tensor:
    """Away from the other image by `amount`, in whole numbers from 0 to 255."""
    factor_G111 = (1 + amount_G)[:, None, None, None]
    return (other_GCHW + factor_G111 * (x_GCHW - other_GCHW)).clamp(0, 255).trunc()


@dataclass(frozen=True, slots=True)
class ImageOperation:
    """What is done, its greatest strength, and whether it goes both ways."""

    largest: float
    both_ways: bool
    moves: Callable[[Tensor, int, int], Tensor] | None = None
    changes: Callable[[Tensor, Tensor], Tensor] | None = None


OPERATIONS: dict[str, ImageOperation] = {
    "identity": ImageOperation(0.0, False),
    "shear_x": ImageOperation(0.99, True, moves=shear_x),
    "shear_y": ImageOperation(0.99, True, moves=shear_y),
    "translate_x": ImageOperation(0.45, True, moves=translate_x),
    "translate_y": ImageOperation(0.45, True, moves=translate_y),
    "rotate": ImageOperation(135.0, True, moves=rotate),
    "brightness": ImageOperation(0.99, True, changes=brightness),
    "colour": ImageOperation(0.99, True, changes=colour),
    "contrast": ImageOperation(0.99, True, changes=contrast),
    "sharpness": ImageOperation(0.99, True, changes=sharpness),
    "posterize": ImageOperation(6.0, False, changes=posterize),
    "solarize": ImageOperation(1.0, False, changes=solarize),
    "autocontrast": ImageOperation(0.0, False, changes=autocontrast),
    "equalize": ImageOperation(0.0, False, changes=equalize),
}
"""Name -> operation, with the strengths of TrivialAugment's wide space. Translations are at most
0.45 of the side, as RandAugment's, where TrivialAugment says 32 pixels at any size."""

COUNT: dict[Policy, int] = {"none": 0, "trivial": 1, "rand": 2}
"""Policy -> operations an image."""
RAND_STRENGTH = 0.3
"""RandAugment's strength as a share of the greatest: 9 of 30."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnOperations:
    """What is done to each image: operation number and signed strength, both (B, n), on the CPU."""

    kinds_BN: Tensor
    amounts_BN: Tensor

    def part(self, images: slice) -> "DrawnOperations":
        """Those of some of the images."""
        return DrawnOperations(kinds_BN=self.kinds_BN[images], amounts_BN=self.amounts_BN[images])


def check_policy(policy: str) -> None:
    """Raise InputError unless there is such a policy."""
    if policy not in COUNT:
        raise InputError(f"there is no policy {policy!r}; pass none, trivial or rand")


def draw_operations(policy: Policy, count: int, generator: torch.Generator) -> DrawnOperations:
    """Draw what to do to each of `count` images, with a CPU generator."""
    check_policy(policy)
    shape = count, COUNT[policy]
    kinds_BN = torch.randint(len(OPERATIONS), shape, generator=generator)
    levels_BN = torch.randint(31, shape, generator=generator) / 30
    if policy == "rand":
        levels_BN = torch.full_like(levels_BN, RAND_STRENGTH)
    signs_BN = torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)
    largest = torch.tensor([operation.largest for operation in OPERATIONS.values()])
    both_ways = torch.tensor([operation.both_ways for operation in OPERATIONS.values()])
    signs_BN = torch.where(both_ways[kinds_BN], signs_BN, 1.0)
    return DrawnOperations(kinds_BN=kinds_BN, amounts_BN=levels_BN * largest[kinds_BN] * signs_BN)


def apply_operations(images_BCHW: Tensor, drawn: DrawnOperations) -> Tensor:
    """Do to each uint8 image what was drawn for it, one operation after the other."""
    for n in range(drawn.kinds_BN.shape[1]):
        images_BCHW = _apply_one(images_BCHW, drawn.kinds_BN[:, n], drawn.amounts_BN[:, n])
    return images_BCHW


def _apply_one(images_BCHW: Tensor, kinds_B: Tensor, amounts_B: Tensor) -> Tensor:
    height, width = images_BCHW.shape[2:]
    result_BCHW = images_BCHW.clone()
    for number, operation in enumerate(OPERATIONS.values()):
        # On the CPU, where the draws are: no device is waited for.
        index_G = (kinds_B == number).nonzero().squeeze(1)
        if not len(index_G) or (operation.moves is None and operation.changes is None):
            continue
        amount_G = amounts_B[index_G].to(images_BCHW.device, non_blocking=True)
        index_G = index_G.to(images_BCHW.device, non_blocking=True)
        images_GCHW = images_BCHW[index_G]
        if operation.moves is not None:
            done_GCHW = warp(images_GCHW, operation.moves(amount_G, height, width))
        else:
            assert operation.changes is not None
            done_GCHW = operation.changes(images_GCHW.float(), amount_G).to(images_BCHW.dtype)
        result_BCHW[index_G] = done_GCHW
    return result_BCHW
