"""The parts that a teacher's output is cut into, and what stands in for those that are left out.

Shape suffixes: B batch, J = K - 1 classes that are not true.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Mass = Literal["image", "class", "all", "virtual"]
"""Whose mass of the true class: the image's, the mean of its class or of all, a made-up one."""
Others = Literal["image", "class", "permuted", "even"]
"""How the other classes share the rest: as for the image, its class; in a wrong order; evenly."""
Part = Literal[
    "full",
    "true_only",
    "permuted",
    "averaged",
    "class_mean",
    "similarity",
    "uniform",
    "virtual",
]
PARTS: dict[Part, tuple[Mass, Others]] = {
    "full": ("image", "image"),
    "true_only": ("image", "even"),
    "permuted": ("image", "permuted"),
    "averaged": ("image", "class"),
    "class_mean": ("class", "class"),
    "similarity": ("all", "image"),
    "uniform": ("all", "even"),
    "virtual": ("virtual", "even"),
}
"""What each part keeps of the teacher: (mass of the true class, shares of the others)."""


def virtual_mass(confidence: float, classes: int, temperature: float) -> float:
    """The true class's mass, softened by T, of a teacher that is always right and equally sure.

    Args:
        confidence: its probability of the true class at T = 1; the others share the rest evenly.
        classes: K.
        temperature: T.

    Example:
        >>> virtual_mass(0.99, 10, 1.0), round(virtual_mass(0.99, 10, 4.0), 3)
        (0.99, 0.378)
    """
    true = math.pow(confidence, 1 / temperature)
    rest = (classes - 1) * math.pow((1 - confidence) / max(classes - 1, 1), 1 / temperature)
    return true / (true + rest)


def permuted_rows(others_BJ: Tensor, generator: torch.Generator) -> Tensor:
    """Each row's values in an order of its own, drawn on the CPU, so that every device draws alike.

    Example:
        >>> import torch
        >>> row = permuted_rows(torch.tensor([[0.1, 0.2, 0.7]]), torch.Generator().manual_seed(0))
        >>> sorted(round(v, 1) for v in row[0].tolist())
        [0.1, 0.2, 0.7]
    """
    import torch

    order_BJ = torch.rand(others_BJ.shape, generator=generator).argsort(dim=1)
    return others_BJ.gather(1, order_BJ.to(others_BJ.device))
