"""Doubted labels against heads fitted by scikit-learn, fold by fold."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from selfexplain.evaluation import mislabels
from selfexplain.evaluation.mislabels import (
    STRENGTHS,
    TEMPERATURES,
    fold_of,
    label_margins,
    out_of_fold_probabilities,
    second_opinion,
)


def problem(features: int, noise: float = 0.6) -> tuple[Tensor, Tensor]:
    """45 images of three classes around their own centres."""
    generator = torch.Generator().manual_seed(0)
    y_N = torch.arange(45) % 3
    centre_KF = torch.randn(3, features, generator=generator)
    return centre_KF[y_N] + noise * torch.randn(45, features, generator=generator), y_N


def by_scikit_learn(x_NF: Tensor, y_N: Tensor, used_N: Tensor) -> np.ndarray:
    """The same by Ridge, with both settings chosen by plain loops."""
    fold, target, used = [], np.eye(3)[y_N.numpy()], used_N.numpy()
    seen = [0, 0, 0]
    for y in y_N.tolist():
        fold.append(seen[y] % 5)
        seen[y] += 1
    x, scores = x_NF.double().numpy(), []
    for strength in STRENGTHS:
        said = np.zeros((len(x), 3))
        for out in range(5):
            rows = [i for i in range(len(x)) if fold[i] != out and used[i]]
            centred = x[rows] - x[rows].mean(0)
            alpha = strength * (centred**2).sum() / x.shape[1]
            head = Ridge(alpha=alpha, solver="svd").fit(x[rows], target[rows])
            for i in range(len(x)):
                if fold[i] == out:
                    said[i] = head.predict(x[i : i + 1])[0]
        scores.append(said)
    best = min(scores, key=lambda said: ((said - target)[used] ** 2).sum())
    found = []
    for factor in TEMPERATURES:
        p = np.exp(factor * best) / np.exp(factor * best).sum(1, keepdims=True)
        found.append((np.log((p * target).sum(1)).sum(), p))
    return max(found, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("features", [5, 60])  # fewer and more than images
@pytest.mark.parametrize("left_out", [0, 12])
def test_out_of_fold_heads_are_those_of_scikit_learn(features: int, left_out: int) -> None:
    x_NF, y_N = problem(features)
    used_N = torch.arange(45) >= left_out
    found = out_of_fold_probabilities(x_NF, y_N, 3, fitted_N=used_N)
    np.testing.assert_allclose(found.numpy(), by_scikit_learn(x_NF, y_N, used_N), atol=1e-8)


def test_no_head_sees_the_label_it_judges() -> None:
    x_NF, y_N = problem(8)
    other_N = y_N.clone()
    other_N[7] = (y_N[7] + 1) % 3
    # Dealt out alike, so that only the label of image 7 differs, and no choice of settings.
    one = {"STRENGTHS": (0.1,), "TEMPERATURES": (4.0,)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in one.items():
            patch.setattr(mislabels, name, value)
        patch.setattr(mislabels, "fold_of", lambda labels, folds: fold_of(y_N, folds))
        a, b = (out_of_fold_probabilities(x_NF, labels, 3) for labels in (y_N, other_N))
    assert torch.equal(a[7], b[7])
    assert not torch.equal(a, b)


def test_each_class_is_dealt_out_evenly() -> None:
    y_N = torch.tensor([2] * 7 + [0] * 13)
    fold_N = fold_of(y_N)
    for k in (0, 2):
        counts = torch.bincount(fold_N[y_N == k], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_margins_follow_their_definition() -> None:
    p_NK = torch.rand(20, 4, dtype=torch.float64).softmax(dim=1)
    y_N = torch.arange(20) % 4
    for p, y, margin in zip(p_NK.tolist(), y_N.tolist(), label_margins(p_NK, y_N), strict=True):
        assert float(margin) == pytest.approx(p[y] - max(p[:y] + p[y + 1 :]))


def test_second_heads_learn_without_what_the_first_ones_doubt() -> None:
    x_NF, y_N = problem(8, noise=0.4)
    given_N = y_N.clone()
    given_N[[3, 10, 20]] = (y_N[[3, 10, 20]] + 1) % 3
    first = out_of_fold_probabilities(x_NF, given_N, 3)
    agreed_N = first.argmax(dim=1) == given_N
    found = second_opinion(x_NF, given_N, 3)
    wanted = out_of_fold_probabilities(x_NF, given_N, 3, fitted_N=agreed_N)
    assert torch.equal(found, wanted)
    worst = found.gather(1, given_N[:, None])[:, 0].argsort()[:3]
    assert sorted(worst.tolist()) == [3, 10, 20]


def test_a_class_that_all_first_heads_deny_keeps_its_images() -> None:
    x_NF, y_N = problem(8, noise=0.1)
    y_N = y_N.clone()
    y_N[[0, 4]] = 3  # two images of a fourth class, which look like those of others
    found = second_opinion(x_NF, y_N, 4)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(45, dtype=torch.float64))
