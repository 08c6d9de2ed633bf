"""Calibration, selective prediction and temperature scaling against loops and outside libraries."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from sklearn.metrics import auc

from selfexplain.evaluation import (
    adaptive_calibration_error,
    aurc,
    calibration_error,
    cross_scaled,
    excess_aurc,
    fit_temperature,
    risk_coverage,
    score,
)

N, K = 407, 5
torch.manual_seed(0)
LOGITS = torch.randn(N, K) * 2
LABELS = torch.distributions.Categorical(logits=LOGITS / 2).sample()  # so they are overconfident
ROUGH = (LOGITS * 2).round() / 2  # many equal confidences


def sorted_pairs(logits: torch.Tensor) -> list[tuple[float, int]]:
    """(confidence, whether right) from the surest image to the least sure one."""
    p = np.exp(logits.double().numpy())
    p /= p.sum(axis=1, keepdims=True)
    pairs = [(float(p[i].max()), int(p[i].argmax() == LABELS[i].item())) for i in range(N)]
    return sorted(pairs, reverse=True)


def test_adaptive_ece_by_definition() -> None:
    pairs, gap, start = sorted_pairs(LOGITS), 0.0, 0
    for b in range(15):
        size = N // 15 + (b < N % 15)
        inside = pairs[start : start + size]
        start += size
        accuracy = sum(right for _, right in inside) / size
        gap += size / N * abs(accuracy - sum(c for c, _ in inside) / size)
    assert start == N
    assert adaptive_calibration_error(LOGITS, LABELS) == pytest.approx(100 * gap)


def test_with_one_bin_every_calibration_error_is_the_mean_gap() -> None:
    pairs = sorted_pairs(LOGITS)
    gap = abs(sum(right - confidence for confidence, right in pairs)) / N
    assert adaptive_calibration_error(LOGITS, LABELS, bins=1) == pytest.approx(100 * gap)


def test_more_bins_than_images() -> None:
    assert adaptive_calibration_error(LOGITS[:3], LABELS[:3]) > 0


def test_risk_coverage_by_definition() -> None:
    pairs = sorted_pairs(LOGITS)
    risks = [sum(1 - right for _, right in pairs[:n]) / n for n in range(1, N + 1)]
    assert risk_coverage(LOGITS, LABELS).tolist() == pytest.approx(risks)
    assert aurc(LOGITS, LABELS) == pytest.approx(100 * sum(risks) / N)


def test_aurc_is_an_area() -> None:
    """The mean over coverages and sklearn's trapezoids differ by half a step at the two ends."""
    risk = risk_coverage(LOGITS, LABELS).numpy()
    coverage = np.arange(1, N + 1) / N
    ends = (risk[0] + risk[-1]) / (2 * N)
    assert aurc(LOGITS, LABELS) == pytest.approx(100 * (auc(coverage, risk) + ends))


def test_excess_aurc_is_what_the_best_order_leaves() -> None:
    wrong = sum(1 - right for _, right in sorted_pairs(LOGITS))
    best = sum(max(0, n - (N - wrong)) / n for n in range(1, N + 1)) / N
    assert excess_aurc(LOGITS, LABELS) == pytest.approx(aurc(LOGITS, LABELS) - 100 * best)
    right = LOGITS.argmax(dim=1) == LABELS
    knowing = torch.where(right[:, None], LOGITS * 9, LOGITS * 0.01)
    assert excess_aurc(knowing, LABELS) == pytest.approx(0, abs=1e-9)


def test_tied_images_count_as_if_in_random_order() -> None:
    exact = aurc(ROUGH, LABELS)
    generator = np.random.default_rng(0)
    confidence = ROUGH.double().softmax(dim=1).max(dim=1).values.numpy()
    wrong = (ROUGH.argmax(dim=1) != LABELS).numpy()
    areas = []
    for _ in range(2000):
        order = np.lexsort((generator.random(N), -confidence))
        areas.append(100 * (wrong[order].cumsum() / np.arange(1, N + 1)).mean())
    standard_error = np.std(areas) / np.sqrt(len(areas))
    assert standard_error > 0
    assert abs(np.mean(areas) - exact) < 4 * standard_error


@pytest.mark.parametrize("value", [aurc, excess_aurc, adaptive_calibration_error])
def test_the_order_of_the_images_does_not_matter(value: object) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert value(ROUGH[order], LABELS[order]) == pytest.approx(value(ROUGH, LABELS))


def test_temperature_equals_scipy() -> None:
    ours = fit_temperature(LOGITS, LABELS)

    def nll(t: float) -> float:
        return F.cross_entropy(LOGITS.double() / t, LABELS).item()

    theirs = minimize_scalar(nll, bounds=(0.05, 50), method="bounded", options={"xatol": 1e-10})
    assert nll(ours) <= theirs.fun + 1e-12
    assert ours == pytest.approx(theirs.x, rel=1e-5)


def test_temperature_is_found_again() -> None:
    torch.manual_seed(1)
    logits = torch.randn(20_000, 4)
    labels = torch.distributions.Categorical(logits=logits).sample()
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)


def test_temperature_keeps_its_limits() -> None:
    sure = 1.0 * F.one_hot(LABELS, K)
    assert fit_temperature(sure, LABELS) == pytest.approx(0.1)
    assert fit_temperature(-sure, LABELS) == pytest.approx(10)


def test_no_image_meets_a_temperature_that_saw_it() -> None:
    scaled = cross_scaled(LOGITS, LABELS)
    odd = LOGITS[0::2].double() / fit_temperature(LOGITS[1::2], LABELS[1::2])
    assert torch.equal(scaled[0::2], odd)
    other = LABELS.clone()
    other[0::2] = (other[0::2] + 1) % K
    changed = cross_scaled(LOGITS, other)
    assert torch.equal(changed[0::2], scaled[0::2])
    assert not torch.allclose(changed[1::2], scaled[1::2])


def test_scores_are_these_functions() -> None:
    scores, scaled = score(LOGITS, LABELS), cross_scaled(LOGITS, LABELS)
    assert scores.adaptive_ece == adaptive_calibration_error(LOGITS, LABELS)
    assert (scores.aurc, scores.excess_aurc) == (aurc(LOGITS, LABELS), excess_aurc(LOGITS, LABELS))
    assert scores.nll_scaled == pytest.approx(F.cross_entropy(scaled, LABELS).item())
    assert scores.ece_scaled == calibration_error(scaled, LABELS)
    assert scores.nll_scaled < scores.nll  # these logits are surer than right


def test_one_image_is_scored() -> None:
    scores = score(LOGITS[:1], LABELS[:1])
    assert scores.nll_scaled == pytest.approx(scores.nll)
