"""Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2).

Shape suffixes: N images, K classes.
"""

import math

import torch
from torch import Tensor

COLDEST, HOTTEST = 0.1, 10.0
"""Limits of the temperature, our choice: where every image is classified rightly, the colder the
better, and the first error among the other half would then cost without limit."""


def fit_temperature(logits_NK: Tensor, y_N: Tensor) -> float:
    """The temperature T at which logits / T have the smallest NLL, by bisection.

    NLL is convex in b = 1 / T, with slope mean(E_p[z] - z_y) for p = softmax(b z).

    Args:
        logits_NK: logits (N, K); without images T is 1.
        y_N: labels (N,).

    Returns:
        T, from 0.1 to 10.

    Example:
        >>> logits_NK = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
        >>> round(fit_temperature(logits_NK, torch.tensor([0, 0, 0, 1])), 4)  # 2 / log 3
        1.8205
    """
    if not len(y_N):
        return 1.0
    z_NK = logits_NK.double()
    z_N = z_NK.gather(1, y_N[:, None])[:, 0]
    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    for _ in range(40):  # to a relative 5e-12
        middle = (low + high) / 2
        p_NK = (math.exp(middle) * z_NK).softmax(dim=1)
        falling = float(((p_NK * z_NK).sum(dim=1) - z_N).mean()) < 0
        low, high = (middle, high) if falling else (low, middle)
    return math.exp(-(low + high) / 2)


def cross_scaled(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Logits, each divided by a temperature that was fitted without it.

    Images at even places get the temperature of those at odd places, and the reverse. So no image
    is scored with a temperature that saw its label, and every image is scored. (The two halves
    alternate because data sets are often sorted by class.)

    Returns:
        Scaled logits (N, K), float64, in the order given.

    Example:
        >>> cross_scaled(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor([[2., 0.]], dtype=torch.float64)
    """
    scaled_NK = torch.empty_like(logits_NK, dtype=torch.float64)
    for scored, fitted in ((0, 1), (1, 0)):
        temperature = fit_temperature(logits_NK[fitted::2], y_N[fitted::2])
        scaled_NK[scored::2] = logits_NK[scored::2].double() / temperature
    return scaled_NK
