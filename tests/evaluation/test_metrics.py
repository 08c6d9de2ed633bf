"""Scores against their definitions."""

import itertools

import pytest
import torch
from torch import nn

from selfexplain.evaluation import calibration_error, predict, score

torch.manual_seed(0)
LOGITS = torch.randn(400, 5) * 2
LABELS = torch.randint(0, 5, (400,))


def test_scores_by_definition() -> None:
    p = LOGITS.softmax(dim=1)
    scores = score(LOGITS, LABELS)
    assert scores.accuracy == pytest.approx(
        100 * sum(int(p[i].argmax()) == int(LABELS[i]) for i in range(400)) / 400
    )
    picked = torch.stack([p[i, LABELS[i]] for i in range(400)])
    assert scores.nll == pytest.approx(-picked.log().mean().item(), rel=1e-5)
    brier = 0.0
    for i in range(400):
        brier += sum((p[i, k].item() - (k == LABELS[i].item())) ** 2 for k in range(5)) / 400
    assert scores.brier == pytest.approx(brier, rel=1e-5)


def test_ece_by_definition() -> None:
    confidence, guess = LOGITS.softmax(dim=1).max(dim=1)
    right = (guess == LABELS).float()
    ece = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            gap = (right[inside].mean() - confidence[inside].mean()).abs().item()
            ece += inside.float().mean().item() * gap
    assert score(LOGITS, LABELS).ece == pytest.approx(100 * ece, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_ece_is_torchmetrics_to_the_last_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for N, K, scale in itertools.product((1, 2, 33, 600), (2, 7, 20), (0.01, 1, 3, 100)):
        logits_NK = (scale * torch.randn(N, K, generator=generator)).to(dtype)
        y_N = torch.randint(0, K, (N,), generator=generator)
        assert calibration_error(logits_NK, y_N) == torchmetrics_ece(logits_NK, y_N)
        rough_NK = logits_NK.round()  # many equal confidences, some of two classes
        assert calibration_error(rough_NK, y_N) == torchmetrics_ece(rough_NK, y_N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ece_on_the_edges_of_bins_is_that_of_torchmetrics(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    N, others, on_edges = 2000, 15, 0
    for edge in torch.linspace(0, 1, 16)[1:-1]:
        # The top class within some last places of the edge; the others share what is left.
        logits_NK = torch.zeros(N, others + 1, dtype=dtype)
        logits_NK[:, 3] = (edge.double() * others / (1 - edge.double())).log()
        logits_NK += 2e-7 * torch.randn(N, others + 1, generator=generator)
        confidence_N = logits_NK.softmax(dim=1).amax(dim=1).float()
        on_edges += int((confidence_N == edge).any())
        for side_N in (confidence_N < edge, confidence_N == edge, confidence_N > edge):
            inside_NK = logits_NK[side_N] if side_N.any() else logits_NK
            for y_N in torch.full((len(inside_NK),), 0), torch.full((len(inside_NK),), 3):
                assert calibration_error(inside_NK, y_N) == torchmetrics_ece(inside_NK, y_N)
    assert on_edges >= 10  # of 14; some no softmax in float32 can give


def test_ece_of_certainty_is_that_of_torchmetrics() -> None:
    """Confidences of exactly 1 and 0, beside one in the last bin below 1."""
    logits_NK = torch.tensor([[900.0, 0.0], [0.0, 900.0], [900.0, 0.0], [3.0, 0.0]])
    y_N = torch.tensor([0, 0, 1, 0])
    assert calibration_error(logits_NK, y_N) == torchmetrics_ece(logits_NK, y_N)
    assert calibration_error(logits_NK[:2], y_N[:2]) == 50


def torchmetrics_ece(logits_NK: torch.Tensor, y_N: torch.Tensor) -> float:
    from torchmetrics.functional.classification import multiclass_calibration_error

    return 100 * float(
        multiclass_calibration_error(
            logits_NK.softmax(dim=1), y_N, num_classes=logits_NK.shape[1], n_bins=15, norm="l1"
        )
    )


def test_predict_keeps_every_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 5))
    model.train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    logits, labels = predict(
        model, [(torch.randn(3, 4), LABELS[:3]), (torch.randn(2, 4), LABELS[:2])]
    )
    assert logits.shape == (5, 5)
    assert labels.tolist() == [*LABELS[:3].tolist(), *LABELS[:2].tolist()]
    assert [m.training for m in model] == [True, False, True, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_predict_gives_modes_back_when_the_model_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout())
    with pytest.raises(RuntimeError):
        predict(model, [(torch.randn(3, 7), LABELS[:3])])
    assert model[1].training
