"""How right and how well calibrated a classifier is on labelled images.

Shape suffixes: N images, K classes, B batch.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.evaluation.calibration import adaptive_calibration_error, calibration_error
from selfexplain.evaluation.selective import aurc, excess_aurc
from selfexplain.evaluation.temperature import cross_scaled


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

    Each is a function of its own where it is more than a line: see calibration.py, selective.py and
    temperature.py.

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
