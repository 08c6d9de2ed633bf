"""Soft targets: distributions over the non-true classes, and each shape by its definition."""

import math

import pytest
import torch
import torch.nn.functional as F

from selfexplain.introspection.target import (
    blend_uniform,
    distillation_loss,
    mixed_target,
    permuted_target,
    soft_cross_entropy,
    softmax_target,
    uniform_target,
    zipf_target,
)
from selfexplain.objectives.shared.base import non_target_loss

torch.manual_seed(0)
S = torch.randn(6, 7, dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 6, 6])
Q = softmax_target(S, Y, 0.5)
MAKERS = {
    "softmax": lambda: softmax_target(S, Y, 0.7),
    "negative tau": lambda: softmax_target(S, Y, -0.7),
    "zipf": lambda: zipf_target(S, Y, 1.3),
    "uniform": lambda: uniform_target(S, Y),
    "permuted": lambda: permuted_target(Q, Y, torch.Generator().manual_seed(1)),
    "blend": lambda: blend_uniform(Q, Y, 0.4),
}


@pytest.mark.parametrize("name", MAKERS)
def test_target_is_a_distribution_over_the_non_true_classes(name: str) -> None:
    q = MAKERS[name]()
    torch.testing.assert_close(q.sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert (q.gather(1, Y[:, None]) == 0).all()
    assert (q.scatter(1, Y[:, None], 1.0) > 0).all()


def test_softmax_target_by_definition() -> None:
    q = softmax_target(S, Y, 0.7)
    total = sum(math.exp(S[0, c].item() / 0.7) for c in range(1, 7))
    assert q[0, 3].item() == pytest.approx(math.exp(S[0, 3].item() / 0.7) / total)


def test_negative_tau_turns_the_order_around() -> None:
    first, last = softmax_target(S, Y, 0.7), softmax_target(S, Y, -0.7)
    order = S[0, 1:].argsort()
    assert (first[0, 1:][order].diff() > 0).all()
    assert (last[0, 1:][order].diff() < 0).all()


def test_zipf_target_by_definition() -> None:
    q = zipf_target(S, Y, 2.0)
    for row, s, y in zip(q, S, Y.tolist(), strict=True):
        rivals = sorted((c for c in range(7) if c != y), key=lambda c, s=s: -float(s[c]))
        total = sum(r**-2.0 for r in range(1, 7))
        for rank, c in enumerate(rivals, start=1):
            assert row[c].item() == pytest.approx(rank**-2.0 / total)


def test_zipf_of_exponent_zero_is_uniform() -> None:
    torch.testing.assert_close(zipf_target(S, Y, 0.0), uniform_target(S, Y))


def test_permutation_keeps_the_values_and_moves_them() -> None:
    p = permuted_target(Q, Y, torch.Generator().manual_seed(1))
    torch.testing.assert_close(p.sort(dim=1).values, Q.sort(dim=1).values)
    assert not torch.allclose(p, Q)
    mean = torch.stack(
        [permuted_target(Q, Y, torch.Generator().manual_seed(i)) for i in range(3000)]
    ).mean(dim=0)
    torch.testing.assert_close(mean, uniform_target(S, Y), atol=0.02, rtol=0)


def test_mixed_target_takes_a_mass_for_each_image() -> None:
    mass = torch.linspace(0, 1, 6, dtype=torch.float64)
    target = mixed_target(Q, Y, mass)
    torch.testing.assert_close(target.gather(1, Y[:, None])[:, 0], 1 - mass)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(6, dtype=torch.float64))


def test_losses_by_definition() -> None:
    z = torch.randn(6, 7, dtype=torch.float64)
    target = mixed_target(Q, Y, 0.2)
    log_p = z.log_softmax(dim=1)
    torch.testing.assert_close(soft_cross_entropy(z, target), -(target * log_p).sum(dim=1).mean())
    log_target = target.log()
    softened, log_p_t = (log_target / 3).softmax(dim=1), (z / 3).log_softmax(dim=1)
    kl = (softened * (softened.log() - log_p_t)).sum(dim=1).mean()
    torch.testing.assert_close(distillation_loss(z, target, 3.0), 9 * kl)
    total = 0.0
    for b, y in enumerate(Y.tolist()):
        others = [c for c in range(7) if c != y]
        log_r = (z[b, others] / 2).log_softmax(dim=0)
        total += (Q[b, others] * (Q[b, others].log() - log_r)).sum()
    torch.testing.assert_close(non_target_loss(z, Q, Y, 2.0), 4 * total / 6)


def test_non_true_loss_leaves_the_true_logit_alone() -> None:
    z = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    non_target_loss(z, Q, Y).backward()
    assert (z.grad.gather(1, Y[:, None]) == 0).all()
    assert (z.grad.scatter(1, Y[:, None], 1.0) != 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_non_true_loss_is_finite_in_low_precision(dtype: torch.dtype) -> None:
    z = torch.randn(6, 7).to(dtype) * 10
    assert non_target_loss(z, Q.to(dtype), Y).isfinite()


def test_uniform_mixed_target_is_label_smoothing_exactly() -> None:
    z, smoothing = torch.randn(6, 7, dtype=torch.float64), 0.3
    mass = smoothing * 6 / 7
    torch.testing.assert_close(
        soft_cross_entropy(z, mixed_target(uniform_target(z, Y), Y, mass)),
        F.cross_entropy(z, Y, label_smoothing=smoothing),
    )


def test_zipf_shares_the_mass_of_ties() -> None:
    s = torch.tensor([[9.0, 5.0, 1.0, 5.0, 0.0]])
    total = 1 + 1 / 2 + 1 / 3 + 1 / 4
    q = zipf_target(s, torch.tensor([0]))
    expected = torch.tensor([[0, 0.75, 1 / 3, 0.75, 1 / 4]]) / total
    torch.testing.assert_close(q, expected)
    tied = zipf_target(torch.zeros(2, 5), torch.tensor([0, 3]))
    torch.testing.assert_close(tied, uniform_target(tied, torch.tensor([0, 3])))
