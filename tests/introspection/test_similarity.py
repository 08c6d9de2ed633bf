"""Similarity of class maps, each measure against a loop that follows its definition."""

import math

import pytest
import torch
from torch import Tensor

from selfexplain.introspection.target import MapSimilarity, attribution_cosine, similarity_to_true

torch.manual_seed(0)
MAPS = torch.randn(3, 5, 2, 3, dtype=torch.float64)
Y = torch.tensor([4, 0, 2])


def by_hand(maps_KN: list[list[float]], y: int, measure: str) -> list[float]:
    places = range(len(maps_KN[0]))
    classes = range(len(maps_KN))
    e_y = maps_KN[y]
    norm = lambda v: math.sqrt(sum(t * t for t in v))  # noqa: E731
    if measure == "cosine":
        return [
            sum(a * b for a, b in zip(e, e_y, strict=True)) / norm(e) / norm(e_y) for e in maps_KN
        ]
    if measure == "distance":
        return [-norm([a - b for a, b in zip(e, e_y, strict=True)]) for e in maps_KN]
    positive = [max(0.0, v) for v in e_y]
    weights = [1 / len(e_y)] * len(e_y)
    if measure == "attended_votes":
        weights = [p / sum(positive) for p in positive]
    result = [0.0] * len(maps_KN)
    for n in places:
        total = sum(math.exp(maps_KN[c][n]) for c in classes if c != y)
        for c in classes:
            if c != y:
                result[c] += weights[n] * math.exp(maps_KN[c][n]) / total
    return result


@pytest.mark.parametrize("measure", ["cosine", "distance", "votes", "attended_votes"])
@pytest.mark.parametrize("centre", [False, True])
def test_measure_equals_its_definition(measure: MapSimilarity, centre: bool) -> None:
    fast = similarity_to_true(MAPS, Y, measure=measure, centre=centre)
    maps = MAPS - MAPS.mean(dim=1, keepdim=True) if centre else MAPS
    for b, y in enumerate(Y.tolist()):
        expected = by_hand(maps[b].flatten(1).tolist(), y, measure)
        others = [c for c in range(5) if c != y]
        torch.testing.assert_close(
            fast[b, others], torch.tensor(expected, dtype=torch.float64)[others]
        )


def _double(maps: Tensor) -> Tensor:
    return 2 * maps


def test_cosine_ignores_scale_and_distance_does_not() -> None:
    cosine = similarity_to_true(MAPS, Y, measure="cosine")
    torch.testing.assert_close(similarity_to_true(_double(MAPS), Y, measure="cosine"), cosine)
    distance = similarity_to_true(MAPS, Y, measure="distance")
    torch.testing.assert_close(
        similarity_to_true(_double(MAPS), Y, measure="distance"), 2 * distance
    )


def test_zero_maps_give_finite_similarities() -> None:
    for measure in ("cosine", "distance", "votes", "attended_votes"):
        s = similarity_to_true(torch.zeros(2, 3, 2, 2), torch.tensor([0, 1]), measure=measure)
        assert s.isfinite().all()
        assert s[0, 1] == s[0, 2]
    assert (attribution_cosine(torch.zeros(1, 2, 2, 2), torch.ones(3, 2), Y[:1] * 0) == 0).all()


@pytest.mark.parametrize("centre", [False, True])
def test_attribution_cosine_is_the_cosine_of_the_attributions_themselves(centre: bool) -> None:
    """Against autograd: feature x gradient of every class, before any sum, with a mean head."""
    features = torch.randn(3, 4, 2, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, dtype=torch.float64)
    head = weight - weight.mean(dim=0) if centre else weight
    logits = features.mean((2, 3)) @ head.T
    y = torch.tensor([5, 0, 3])
    explanations = []
    for k in range(6):
        (gradient,) = torch.autograd.grad(logits[:, k].sum(), features, retain_graph=True)
        explanations.append((features * gradient).detach().flatten(1))
    fast = attribution_cosine(features.detach(), weight, y, centre=centre)
    for b in range(3):
        for k in range(6):
            expected = torch.cosine_similarity(
                explanations[k][b], explanations[int(y[b])][b], dim=0
            )
            torch.testing.assert_close(fast[b, k], expected)


def test_attribution_cosine_ignores_scale() -> None:
    features, weight = torch.rand(1, 4, 2, 2), torch.randn(3, 4)
    y = torch.tensor([1])
    expected = attribution_cosine(features, weight, y)
    torch.testing.assert_close(attribution_cosine(features * 1e-4, weight * 1e-3, y), expected)
