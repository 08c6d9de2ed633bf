"""Selective prediction: what a classifier is worth that may decline to answer.

Shape suffixes: N images, K classes.
"""

import torch
from torch import Tensor

from selfexplain.evaluation.ranking import by_confidence


def risk_coverage(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Error rate on the n most confident images, for n = 1 ... N.

    Confidence is the probability of the top class. Tied images count as if in random order.

    Returns:
        risk_N, float64, in [0, 1]; place n - 1 belongs to the coverage n / N.

    Example:
        >>> logits_NK = torch.tensor([[9.0, 0.0], [1.0, 0.0]])
        >>> risk_coverage(logits_NK, torch.tensor([0, 1])).tolist()
        [0.0, 0.5]
    """
    _, correct_N = by_confidence(logits_NK, y_N)
    return _running_mean(1 - correct_N)


def aurc(logits_NK: Tensor, y_N: Tensor) -> float:
    """Area under the risk-coverage curve in percent: the mean error rate over all coverages.

    Source: Geifman, Uziel and El-Yaniv 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers"; the curve is El-Yaniv and Wiener's (2010).

    Example:
        >>> aurc(torch.tensor([[9.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
        25.0
    """
    return 100 * float(risk_coverage(logits_NK, y_N).mean())


def excess_aurc(logits_NK: Tensor, y_N: Tensor) -> float:
    """AURC in percent above that of the best order of the same answers, in which errors come last.

    AURC falls with the error rate alone; this is what is left to a better confidence. Source: as
    `aurc`; the best area is computed for the N images at hand, not by the paper's approximation.

    Example:
        >>> excess_aurc(torch.tensor([[9.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
        0.0
    """
    wrong_N = (logits_NK.argmax(dim=1) != y_N).double()
    best = _running_mean(wrong_N.sort().values).mean()
    return aurc(logits_NK, y_N) - 100 * float(best)


def _running_mean(values_N: Tensor) -> Tensor:
    return values_N.cumsum(0) / torch.arange(1, len(values_N) + 1, device=values_N.device)
