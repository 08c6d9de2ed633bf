"""Scored images in the order of the classifier's confidence.

Shape suffixes: N images, K classes.
"""

import torch
from torch import Tensor


def by_confidence(logits_NK: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence in the top class, falling, and how right the classifier is at each place.

    Where several images have the same confidence, each is given their mean correctness: the
    expectation over all orders of the tied images, so that a score does not depend on the order in
    which the images come.

    Args:
        logits_NK: logits (N, K).
        y_N: labels (N,).

    Returns:
        confidence_N and correct_N, float64, each in [0, 1].

    Example:
        >>> logits_NK = torch.tensor([[0.0, 0.0], [9.0, 0.0], [9.0, 0.0]])
        >>> by_confidence(logits_NK, torch.tensor([0, 0, 1]))[1]
        tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    # In float32 most confidences of a trained network would be exactly 1, all tied.
    confidence_N = logits_NK.double().softmax(dim=1).amax(dim=1)
    confidence_N, order_N = confidence_N.sort(descending=True)
    correct_N = (logits_NK.argmax(dim=1) == y_N)[order_N].double()
    _, group_N, size_G = torch.unique_consecutive(
        confidence_N, return_inverse=True, return_counts=True
    )
    sum_G = torch.zeros(len(size_G), dtype=torch.float64, device=correct_N.device)
    return confidence_N, (sum_G.index_add(0, group_N, correct_N) / size_G)[group_N]
