"""Scores of a classifier's logits: accuracy, NLL, Brier, calibration, selective risk, temperature.

Shape suffixes: N images, K classes, B batch.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Scored images in the order of the classifier's confidence.


def by_confidence(logits_NK: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence in the top class, falling, and how right the classifier is at each place; (N,).

    Where several images have the same confidence, each is given their mean correctness: the
    expectation over all orders of the tied images, so that a score does not depend on the order in
    which the images come.
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


# Calibration error of the top class, over bins of equal width or of equal mass.


BINS = 15
"""As in Guo et al. (2017)."""


def calibration_error(logits_NK: Tensor, y_N: Tensor) -> float:
    """ECE in percent: mean gap between confidence and accuracy over 15 bins of equal width.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3. Torchmetrics'
    `multiclass_calibration_error` gives the same bits, and takes seconds to import.

    Args:
        logits_NK: logits (N, K).
        y_N: labels (N,).

    Example:
        >>> calibration_error(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        50.0
    """
    confidence_N, top_N = logits_NK.softmax(dim=1).max(dim=1)
    confidence_N = confidence_N.float()
    # Bin b is [b / BINS, (b + 1) / BINS); a confidence of exactly 1 is in a bin of its own.
    edges_B = torch.linspace(0, 1, BINS + 1, device=confidence_N.device)
    bin_N = torch.bucketize(confidence_N, edges_B, right=True) - 1

    def bin_sums(values_N: Tensor) -> Tensor:
        return torch.zeros_like(edges_B).scatter_add(0, bin_N, values_N)

    count_B = bin_sums(torch.ones_like(confidence_N))
    size_B = count_B.clamp(min=1)  # an empty bin adds nothing
    gap_B = bin_sums((top_N == y_N).float()) / size_B - bin_sums(confidence_N) / size_B
    return 100 * float((gap_B.abs() * (count_B / len(y_N))).sum())


def adaptive_calibration_error(logits_NK: Tensor, y_N: Tensor, bins: int = BINS) -> float:
    """Adaptive ECE in percent: the gap between confidence and accuracy over bins of equal mass.

    A trained network is nearly certain of most images, which then share one bin of equal width;
    bins of equal mass look at each part of them. The idea is Nguyen and O'Connor's (2015); the
    top-class form is Mukhoti et al.'s (2020, "Calibrating Deep Neural Networks using Focal Loss").

    Args:
        logits_NK: logits (N, K).
        y_N: labels (N,).
        bins: number of bins; their sizes differ by at most one image.

    Example:
        >>> adaptive_calibration_error(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        50.0
    """
    confidence_N, correct_N = by_confidence(logits_NK, y_N)
    gaps = (correct_N - confidence_N).tensor_split(bins)
    return 100 * float(torch.stack([gap.sum().abs() for gap in gaps]).sum() / len(y_N))


# Selective prediction: what a classifier is worth that may decline to answer.


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


# Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2).


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a classifier's answers and its confidence in them are worth; less is better but for one.

    Example:
        >>> score(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])).accuracy
        100.0
    """

    accuracy: float
    """Share of the images whose top class is right, in percent; more is better."""
    nll: float
    """Mean negative log-likelihood of the true class, in nats."""
    brier: float
    """Mean squared distance of the probabilities from the one-hot label, summed over classes, in
    [0, 2] (Brier 1950)."""
    ece: float
    """Expected calibration error, 15 bins of equal width, in percent."""
    adaptive_ece: float
    """The same with 15 bins of equal mass, in percent."""
    aurc: float
    """Area under the risk-coverage curve, in percent."""
    excess_aurc: float
    """That area above the least one that these answers allow, in percent."""
    nll_scaled: float
    """NLL after temperature scaling, each half of the images with the other half's temperature."""
    ece_scaled: float
    """ECE after the same, in percent."""


def score(logits_NK: Tensor, y_N: Tensor) -> Scores:
    """Scores of logits (N, K) against labels (N,).

    Each is a function of its own, above, where it is more than a line.

    Example:
        >>> score(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0])).accuracy
        50.0
    """
    logits_NK = logits_NK.float()
    p_NK = logits_NK.softmax(dim=1)
    onehot_NK = F.one_hot(y_N, logits_NK.shape[1])
    scaled_NK = cross_scaled(logits_NK, y_N)
    return Scores(
        accuracy=100 * (logits_NK.argmax(dim=1) == y_N).double().mean().item(),
        nll=F.cross_entropy(logits_NK, y_N).item(),
        brier=(p_NK - onehot_NK).square().sum(dim=1).mean().item(),
        ece=calibration_error(logits_NK, y_N),
        adaptive_ece=adaptive_calibration_error(logits_NK, y_N),
        aurc=aurc(logits_NK, y_N),
        excess_aurc=excess_aurc(logits_NK, y_N),
        nll_scaled=F.cross_entropy(scaled_NK, y_N).item(),
        ece_scaled=calibration_error(scaled_NK, y_N),
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; afterwards every submodule's mode is as it was.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and labels (N,) of all batches, in evaluation mode, on the CPU.

    The train/eval mode of every submodule is afterwards as it was.

    Example:
        >>> batches = [(torch.zeros(2, 4), torch.tensor([0, 1]))]
        >>> predict(nn.Linear(4, 3), batches)[0].shape
        torch.Size([2, 3])
    """
    with evaluating(model):
        pairs = [(model(x).float().cpu(), y.cpu()) for x, y in batches]
    return torch.cat([z for z, _ in pairs]), torch.cat([y for _, y in pairs])
