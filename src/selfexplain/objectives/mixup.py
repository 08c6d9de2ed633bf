"""Mixup (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization").

Shape suffixes: B batch, C channels, H and W space.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from torch import Tensor

from selfexplain.objectives.mixing import Mixing
from selfexplain.objectives.tunable import Range, Tunable


def mix_images(x_BCHW: Tensor, partner_B: Tensor, share: float) -> Tensor:
    """Mix images (B, C, H, W): share x_i + (1 - share) x_j, with j the partner of i.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.0, 4.0]).view(2, 1, 1, 1)
        >>> mix_images(x, torch.tensor([1, 0]), 0.75).ravel()
        tensor([1., 3.])
    """
    return share * x_BCHW + (1 - share) * x_BCHW[partner_B]


class Mixup(Mixing):
    """L = L(objective) of images and labels that are mixed pixel by pixel.

        x' = l x_i + (1 - l) x_j,   y' = l y_i + (1 - l) y_j,   l ~ Beta(alpha, alpha)

    Args:
        objective: takes soft labels.
        num_classes: K.
        alpha: large values mix halves, small ones leave most images nearly as they are; 1 as
            published for CIFAR.
        probability: of mixing in a step; 1 as published.
        seed: of the draws.

    Raises:
        InputError: the objective cannot use mixed images, or alpha or probability is out of range.

    Example:
        >>> import torch
        >>> from selfexplain.objectives import LabelSmoothing
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> objective = Mixup(LabelSmoothing(model), num_classes=3)
        >>> objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))["loss"].backward()
    """

    tunable: ClassVar[Mapping[str, Tunable]] = {"alpha": Range(0.1, 2.0, log=True)}

    def mix(
        self, x_BCHW: Tensor, partner_B: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, float]:
        """Mix images (B, C, H, W) with their partners; return them and the share l."""
        share = float(generator.beta(self.alpha, self.alpha))
        return mix_images(x_BCHW, partner_B, share), share
