"""Scores against their definitions."""

import pytest
import torch
from torch import nn

from selfexplain.evaluation import predict, score

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
