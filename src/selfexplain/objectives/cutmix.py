"""CutMix (Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers").

Shape suffixes: B batch, C channels, H and W space.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from selfexplain.objectives.mixing import Mixing
from selfexplain.objectives.tunable import Choice, Range, Tunable


class Box(NamedTuple):
    """Rows top to bottom - 1 and columns left to right - 1, in pixels.

    Example:
        >>> Box(0, 2, 1, 4).area
        6
    """

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """In pixels."""
        return (self.bottom - self.top) * (self.right - self.left)


def draw_box(height: int, width: int, share: float, generator: np.random.Generator) -> Box:
    """A box of the image's shape and (1 - share) of its area, around a pixel drawn evenly.

    What would lie outside the image is cut off, so that the box may be smaller than asked for.

    Example:
        >>> draw_box(4, 6, 0.0, np.random.default_rng(0)).area > 0
        True
        >>> draw_box(4, 6, 1.0, np.random.default_rng(0)).area
        0
    """
    side = math.sqrt(1 - share)
    top, bottom = _interval(height, int(height * side), generator)
    left, right = _interval(width, int(width * side), generator)
    return Box(top, bottom, left, right)


def paste_box(x_BCHW: Tensor, partner_B: Tensor, box: Box) -> Tensor:
    """Copies of the images (B, C, H, W) with the box taken from each one's partner.

    Example:
        >>> import torch
        >>> x = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
        >>> paste_box(x, torch.tensor([1, 0]), Box(0, 1, 0, 2))[0, 0]
        tensor([[2., 2.],
                [1., 1.]])
    """
    pasted_BCHW = x_BCHW.clone()
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    pasted_BCHW[:, :, rows, columns] = x_BCHW[:, :, rows, columns][partner_B]
    return pasted_BCHW


class CutMix(Mixing):
    """L = L(objective) of images with a box of another, and labels mixed by area.

        y' = l y_i + (1 - l) y_j,   1 - l the box's share of the area

    The box is drawn for 1 - l with l ~ Beta(alpha, alpha); where a part of it falls outside the
    image, l is what remains.

    Args:
        objective: takes soft labels.
        num_classes: K.
        alpha: 1 as published, which makes every l as likely.
        probability: of mixing in a step; 1 as the authors' code has it for ImageNet, 0.5 for CIFAR.
        seed: of the draws.

    Raises:
        InputError: the objective cannot use mixed images, or alpha or probability is out of range.

    Example:
        >>> import torch
        >>> from selfexplain.objectives import Standard
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> objective = CutMix(Standard(model), num_classes=3, probability=0.5)
        >>> objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))["loss"].backward()
    """

    tunable: ClassVar[Mapping[str, Tunable]] = {
        "alpha": Range(0.1, 2.0, log=True),
        "probability": Choice(0.5, 1.0),
    }

    def mix(
        self, x_BCHW: Tensor, partner_B: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, float]:
        """Paste a box of its partner into each image; return them and the share l left."""
        height, width = x_BCHW.shape[2:]
        share = float(generator.beta(self.alpha, self.alpha))
        box = draw_box(height, width, share, generator)
        return paste_box(x_BCHW, partner_B, box), 1 - box.area / (height * width)


def _interval(size: int, length: int, generator: np.random.Generator) -> tuple[int, int]:
    """Start and end of `length` pixels around an evenly drawn one, cut off at 0 and `size`."""
    start = int(generator.integers(size)) - length // 2
    return max(start, 0), min(start + length, size)
