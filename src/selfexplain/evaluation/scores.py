"""How right and how well calibrated a classifier is on labelled images.

Shape suffixes: N images, K classes, B batch.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Accuracy in percent, NLL in nats, Brier score in [0, 2], ECE (15 bins) in percent.

    Example:
        >>> Scores(accuracy=90.0, nll=0.3, brier=0.15, ece=1.5).accuracy
        90.0
    """

    accuracy: float
    nll: float
    brier: float
    ece: float


def score(logits_NK: Tensor, y_N: Tensor) -> Scores:
    """Scores of logits (N, K) against labels (N,).

    NLL is the mean negative log-likelihood of the true class. Brier is the mean squared distance
    between probabilities and the one-hot label, summed over classes (Brier 1950). ECE is the
    expected calibration error of the top class over 15 bins of equal width (Guo et al. 2017).

    Example:
        >>> score(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0])).accuracy
        50.0
    """
    logits_NK = logits_NK.float()
    classes = logits_NK.shape[1]
    p_NK = logits_NK.softmax(dim=1)
    onehot_NK = F.one_hot(y_N, classes)
    ece = multiclass_calibration_error(p_NK, y_N, num_classes=classes, n_bins=15, norm="l1")
    return Scores(
        accuracy=100 * (logits_NK.argmax(dim=1) == y_N).double().mean().item(),
        nll=F.cross_entropy(logits_NK, y_N).item(),
        brier=(p_NK - onehot_NK).square().sum(dim=1).mean().item(),
        ece=100 * float(ece),
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
