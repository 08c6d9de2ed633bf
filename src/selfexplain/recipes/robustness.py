"""How many answers stay right when the images get worse.

Shape suffixes: N images, K classes.
"""

import statistics
from collections.abc import Callable
from typing import Any

from torch import Tensor

from selfexplain.data import CORRUPTIONS


def robustness(logits: Callable[[str], tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Accuracy under each corruption, and its mean over all of them.

    The corrupted images are the same for every model, whatever its seed, so that models are
    compared on equal images.

    Args:
        logits: gives logits (N, K) and labels (N,) of the images under a corruption of this name.

    Returns:
        "corrupted_accuracy", in percent, and "corruptions", name -> accuracy in percent.

    Example:
        >>> import torch
        >>> found = robustness(lambda name: (torch.eye(2), torch.tensor([0, 0])))
        >>> found["corrupted_accuracy"], found["corruptions"]["contrast-5"]
        (50.0, 50.0)
    """
    accuracies = {name: _accuracy(*logits(name)) for name in CORRUPTIONS}
    return {
        "corrupted_accuracy": statistics.fmean(accuracies.values()),
        "corruptions": accuracies,
    }


def _accuracy(logits_NK: Tensor, y_N: Tensor) -> float:
    return 100 * (logits_NK.argmax(dim=1) == y_N).double().mean().item()
