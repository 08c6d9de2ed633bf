"""Objectives with a trained teacher: losses against plain loops, and what the teacher does."""

import math

import pytest
import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.experiments.fit.teacher import trained_first
from selfexplain.experiments.objectives import OBJECTIVES, build_objective
from selfexplain.objectives import (
    DKD,
    KD,
    BornAgain,
    DistillationObjective,
    Objective,
    ObjectiveContext,
)
from selfexplain.objectives.dkd import non_target_kl, target_class_kl
from selfexplain.objectives.options import BornAgainOptions, ObjectiveOptions

CLASSES = 4
TAUGHT = [name for name, kind in OBJECTIVES.items() if issubclass(kind, DistillationObjective)]


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).double()


def batch() -> tuple[Tensor, Tensor]:
    x = torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return x, torch.tensor([0, 1, 2, 3, 1, 1])


def softmax(z: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(v / temperature) for v in z]
    return [p / sum(powers) for p in powers]


def kl(q: list[float], p: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))


def rows(objective: DistillationObjective, x: Tensor) -> list[tuple[list[float], list[float]]]:
    """Logits of student and teacher for each image."""
    return list(zip(objective.model(x).tolist(), objective.teacher(x).tolist(), strict=True))


def close(loss: Tensor, expected: float) -> None:
    # softened logits are compared in float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_kd_is_hintons_loss() -> None:
    objective = KD(linear(), linear(), alpha=0.7, temperature=3.0)
    x, y = batch()
    losses = [
        -0.3 * math.log(softmax(z)[label]) + 0.7 * 9.0 * kl(softmax(t, 3.0), softmax(z, 3.0))
        for (z, t), label in zip(rows(objective, x), y.tolist(), strict=True)
    ]
    close(objective(x, y)["loss"], sum(losses) / len(losses))


def test_kd_at_high_temperature_matches_logits() -> None:
    """Section 2.1 of the paper: the gradient becomes (z - t) / K with zero-mean logits."""
    objective = KD(linear(), linear(), alpha=1.0, temperature=500.0)
    x, y = batch()
    out = objective(x, y)
    (gradient,) = torch.autograd.grad(out["loss"], out["output"])
    z, t = (v - v.mean(dim=1, keepdim=True) for v in (out["output"], objective.teacher(x)))
    torch.testing.assert_close(gradient * len(x), (z - t) / CLASSES, rtol=0.02, atol=1e-3)


def test_dkd_is_its_two_divergences() -> None:
    objective = DKD(linear(), linear(), alpha=0.5, beta=3.0, temperature=2.0)
    x, y = batch()
    losses = []
    for (z, t), label in zip(rows(objective, x), y.tolist(), strict=True):
        p, q = softmax(z, 2.0), softmax(t, 2.0)
        tckd = kl([q[label], 1 - q[label]], [p[label], 1 - p[label]])
        others = [c for c in range(CLASSES) if c != label]
        nckd = kl(*([v[c] / (1 - v[label]) for c in others] for v in (q, p)))
        losses.append(-math.log(softmax(z)[label]) + 4.0 * (0.5 * tckd + 3.0 * nckd))
    close(objective(x, y)["loss"], sum(losses) / len(losses))


def test_decoupled_parts_with_the_teachers_doubt_are_kd() -> None:
    """Equation 6 of the paper: KD = TCKD + (1 - q_y) NCKD, also for a very sure teacher."""
    generator = torch.Generator().manual_seed(0)
    z, t = torch.randn(2, 8, 5, dtype=torch.float64, generator=generator) * 3
    y = torch.arange(8) % 5
    t[0, 0] = 40.0
    doubt = 1 - t.softmax(dim=1).gather(1, y[:, None]).squeeze(1)
    parts = target_class_kl(z, t, y) + doubt * non_target_kl(z, t, y)
    whole = (t.softmax(dim=1) * (t.log_softmax(dim=1) - z.log_softmax(dim=1))).sum(dim=1)
    torch.testing.assert_close(parts, whole)


def test_dkd_warms_up_over_a_share_of_the_epochs() -> None:
    objective = DKD(linear(), linear(), warmup=0.25)
    strengths = []
    for epoch in range(12):
        objective.begin_epoch(epoch, 12)
        strengths.append(objective.strength)
    assert strengths == pytest.approx([1 / 3, 2 / 3, *[1.0] * 10])
    objective.begin_epoch(0, 12)
    x, y = batch()
    out = objective(x, y)
    distilled = objective.alpha * out["tckd"] + objective.beta * out["nckd"]
    torch.testing.assert_close(out["loss"], out["cross_entropy"] + distilled / 3)
    objective.skip_warmup()
    assert objective.strength == 1.0


def test_born_again_learns_from_the_generation_before() -> None:
    objective = BornAgain(linear(), linear(), label_weight=0.5)
    x, y = batch()
    losses = [
        kl(softmax(t), softmax(z)) - 0.5 * math.log(softmax(z)[label])
        for (z, t), label in zip(rows(objective, x), y.tolist(), strict=True)
    ]
    close(objective(x, y)["loss"], sum(losses) / len(losses))


def test_generations_are_a_chain_of_teachers() -> None:
    options = ObjectiveOptions(born_again=BornAgainOptions(generations=3, label_weight=0.25))
    grown = "born_again:generations={},label_weight=0.25"
    chain = (grown.format(2), grown.format(1), "standard")
    assert trained_first("born_again", options, given=False) == chain
    # A given teacher is generation 0.
    assert trained_first("born_again", options, given=True) == chain[:2]


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_is_asked_and_never_changed(name: str) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, CLASSES))
    objective = from_context(name, linear().float(), teacher).train()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, weight_decay=0.1)
    x, y = batch()
    for _ in range(2):
        objective(x.float(), y)["loss"].backward()
        optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not any(m.training for m in teacher.modules())
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("name", TAUGHT)
def test_missing_or_unfit_teacher_is_named(name: str) -> None:
    with pytest.raises(InputError, match="pass a teacher"):
        from_context(name, linear(), None)
    student = linear()
    with pytest.raises(InputError, match="pass another model"):
        from_context(name, student, student)
    x, y = batch()
    few = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    with pytest.raises(InputError, match="pass a teacher with the same classes"):
        from_context(name, linear(), few)(x, y)


def from_context(name: str, model: nn.Module, teacher: nn.Module | None) -> Objective:
    context = ObjectiveContext(
        num_classes=CLASSES,
        image_shape=(1, 2, 2),
        num_images=6,
        make_model=linear,
        teacher=teacher,
    )
    return build_objective(name, model, ObjectiveOptions(), context)
