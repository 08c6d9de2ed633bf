"""Own mass, held to its definition written out image by image."""

import math

import pytest
import torch
from torch import nn

from selfexplain.errors import InputError
from selfexplain.introspection import OwnMass
from selfexplain.introspection.own_mass import hashed_permutation, standardized_similarity
from selfexplain.models import build_model

K = 5


def own_mass(**options: float | str) -> OwnMass:
    torch.manual_seed(0)
    model = build_model("small_cnn", num_classes=K, in_channels=1)
    return OwnMass(model, num_images=8, **options)  # type: ignore[arg-type]


def z_score_softmax(s: list[float], y: int, kappa: float) -> list[float]:
    others = [c for c in range(K) if c != y]
    mean = sum(s[c] for c in others) / len(others)
    std = math.sqrt(sum((s[c] - mean) ** 2 for c in others) / len(others))
    raw = [math.exp(kappa * (s[c] - mean) / std) if c != y else 0.0 for c in range(K)]
    return [value / sum(raw) for value in raw]


@pytest.mark.parametrize("kappa", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("cap", [1.0, 0.3])
def test_it_follows_its_definition_over_epochs(kappa: float, cap: float) -> None:
    objective = own_mass(alpha=0.6, kappa=kappa, cap=cap).double()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    x, y = torch.randn(8, 1, 8, 8).double(), torch.arange(8) % K
    past: dict[int, float] = {}
    for epoch, order in enumerate(([0, 1, 2, 3, 4, 5], [7, 5, 3, 1, 0, 2], [6, 4, 2, 0, 7, 1])):
        objective.begin_epoch(epoch, 3)
        alpha = 0.6 * (epoch + 1) / 3
        for places in (order[:3], order[3:]):
            index = torch.tensor(places)
            s_BK = objective.similarity(x[index], y[index]).tolist()
            out = objective(x[index], y[index], index)
            expected = 0.0
            log_p_BK = out["output"].detach().log_softmax(dim=1)
            for i, place in enumerate(places):
                label = int(y[place])
                m = min(cap, alpha * (1 - past.get(place, 1.0)))
                q = z_score_softmax(s_BK[i], label, kappa)
                target = [(1 - m) * (c == label) + m * q[c] for c in range(K)]
                expected -= sum(t * float(v) for t, v in zip(target, log_p_BK[i], strict=True)) / 3
                past[place] = float(log_p_BK[i, label].exp())
            # The similarity is computed in float32.
            assert out["loss"].item() == pytest.approx(expected, rel=1e-6)
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()


def test_equally_similar_classes_get_even_shares() -> None:
    s = torch.full((2, K), 0.3)
    assert torch.equal(standardized_similarity(s, torch.tensor([0, 4])), torch.zeros(2, K))


def test_an_even_spread_needs_no_layer_to_explain() -> None:
    objective = OwnMass(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), num_images=2, kappa=0.0)
    objective.begin_epoch(0, 1)
    x, y = torch.randn(2, 1, 2, 2), torch.tensor([0, 2])
    objective(x, y, torch.arange(2))["loss"].backward()
    assert 0 < float(objective(x, y, torch.arange(2))["mass"]) < 1  # the second time it knows them


def test_permutations_keep_the_values_and_differ() -> None:
    q = torch.rand(64, K)
    y = torch.arange(64) % K
    q[torch.arange(64), y] = 0.0
    place = torch.arange(64)
    one, other = hashed_permutation(q, y, place, 0), hashed_permutation(q, y, place, 1)
    assert torch.equal(one[torch.arange(64), y], torch.zeros(64))
    assert torch.equal(one.sort(dim=1).values, q.sort(dim=1).values)
    assert torch.equal(one, hashed_permutation(q, y, place, 0))
    assert not torch.equal(one, other)
    # Of 24 orders of four classes each image gets one at random: a share of 1 / 4 stays in place.
    kept = (one == q).float().mean(dim=1).mul(K).sub(1).div(K - 1).mean()
    assert 0.1 < float(kept) < 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha is 1.5; pass a number from 0 to 1"),
        ({"cap": -1.0}, "cap is -1; pass a number from 0 to 1"),
        ({"kappa": math.nan}, "kappa is nan; pass a finite number"),
        ({"control": "none at all"}, "pass one of none, permuted"),
    ],
)
def test_refusals(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        own_mass(**options)


def test_it_wants_to_be_told_of_epochs_and_places() -> None:
    objective, x, y = own_mass(), torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    with pytest.raises(InputError, match="begin_epoch"):
        objective(x, y, torch.arange(2))
    objective.begin_epoch(0, 1)
    with pytest.raises(InputError, match="place in the training set"):
        objective(x, y)
