"""Each part of a teacher's output against what it is defined to keep and to replace."""

from pathlib import Path

import pytest
import torch
from tests.helpers.two_processes import start_two
from torch import Tensor, nn

from selfexplain.objectives import KD, DistilPart
from selfexplain.objectives.distil_part import TeacherMeans, virtual_mass
from selfexplain.objectives.options import PARTS

CLASSES, IMAGES, T = 4, 12, 2.0
Y = torch.arange(IMAGES) % CLASSES


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))


def images(seed: int = 0) -> Tensor:
    return 3 * torch.randn(IMAGES, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


def taught(part: str) -> DistilPart:
    torch.manual_seed(0)
    return DistilPart(linear(), linear(), CLASSES, part=part, temperature=T)  # type: ignore[arg-type]


def outputs(part: str) -> tuple[Tensor, Tensor]:
    """The teacher's softened output q and the target made of it, after two batches of training."""
    objective = taught(part)
    for seed in (1, 0):
        objective(images(seed), Y)
    logits = objective.teacher(images()) / T
    return logits.softmax(dim=1), objective.target(logits, Y)


def mean_of_class(part: str, c: int) -> Tensor:
    """The teacher's mean output for a class over both batches, by definition."""
    teacher = taught(part).teacher
    both = torch.cat([(teacher(images(seed)) / T).softmax(dim=1) for seed in (1, 0)])
    return both[torch.cat((Y, Y)) == c].mean(dim=0)


def mean_mass(part: str) -> float:
    teacher = taught(part).teacher
    both = torch.cat([(teacher(images(seed)) / T).softmax(dim=1) for seed in (1, 0)])
    return both[range(2 * IMAGES), torch.cat((Y, Y))].mean().item()


def masses(q: Tensor) -> Tensor:
    return q[range(IMAGES), Y]


def shares(q: Tensor) -> Tensor:
    """How the classes that are not true share what is left, in their order: (images, K - 1)."""
    rows = [q[i][torch.arange(CLASSES) != y] for i, y in enumerate(Y.tolist())]
    return torch.stack([row / row.sum() for row in rows])


@pytest.mark.parametrize("part", PARTS)
def test_target_is_a_distribution_without_a_graph(part: str) -> None:
    q, target = outputs(part)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(IMAGES))
    assert (target >= 0).all()
    assert not target.requires_grad
    assert torch.allclose(q, target, atol=1e-6) == (part == "full")


@pytest.mark.parametrize("part", ["full", "true_only", "permuted", "averaged"])
def test_mass_of_the_true_class_is_kept(part: str) -> None:
    q, target = outputs(part)
    torch.testing.assert_close(masses(target), masses(q))


@pytest.mark.parametrize("part", ["similarity", "uniform"])
def test_mass_of_the_true_class_is_the_mean_over_all_images(part: str) -> None:
    _, target = outputs(part)
    torch.testing.assert_close(masses(target), torch.full((IMAGES,), mean_mass(part)))


@pytest.mark.parametrize("part", ["full", "similarity"])
def test_shares_of_the_others_are_kept(part: str) -> None:
    q, target = outputs(part)
    torch.testing.assert_close(shares(target), shares(q))


@pytest.mark.parametrize("part", ["true_only", "uniform", "virtual"])
def test_rest_is_spread_evenly(part: str) -> None:
    _, target = outputs(part)
    torch.testing.assert_close(shares(target), torch.full((IMAGES, CLASSES - 1), 1 / 3))


def test_permuted_keeps_the_values_and_not_their_places() -> None:
    q, target = outputs("permuted")
    torch.testing.assert_close(shares(target).sort().values, shares(q).sort().values)
    kept = (shares(target) - shares(q)).abs().amax(dim=1) < 1e-6
    assert 0 < kept.sum() < IMAGES / 2  # one of six orders is the old one


def test_permutation_is_another_in_each_step_and_the_same_in_each_run() -> None:
    logits = taught("permuted").teacher(images())
    first, second = taught("permuted"), taught("permuted")
    before = first.target(logits, Y)
    assert torch.equal(before, second.target(logits, Y))
    first(images(), Y)
    assert not torch.equal(before, first.target(logits, Y))


def test_class_mean_is_the_teachers_mean_output() -> None:
    _, target = outputs("class_mean")
    expected = torch.stack([mean_of_class("class_mean", int(c)) for c in Y])
    torch.testing.assert_close(target, expected)


def test_averaged_shares_are_those_of_the_class_mean() -> None:
    _, target = outputs("averaged")
    expected = torch.stack([mean_of_class("averaged", int(c)) for c in Y])
    torch.testing.assert_close(shares(target), shares(expected))


def test_virtual_teacher_is_a_softened_one_of_fixed_confidence() -> None:
    logits = torch.tensor([0.9, *[0.1 / 3] * 3]).log() / T
    assert virtual_mass(0.9, 4, T) == pytest.approx(logits.softmax(dim=0)[0].item())
    _, target = outputs("virtual")
    assert masses(target).tolist() == pytest.approx([virtual_mass(0.99, CLASSES, T)] * IMAGES)


def test_full_is_knowledge_distillation() -> None:
    objective = taught("full")
    kd = KD(objective.model, objective.teacher.model, alpha=0.9, temperature=T)
    torch.testing.assert_close(objective(images(), Y)["loss"], kd(images(), Y)["loss"])


def test_means_grow_in_training_alone_and_are_saved() -> None:
    objective = taught("class_mean")
    objective.eval()(images(), Y)
    assert objective.means.count_K.sum() == 0
    objective.train()(images(), Y)
    assert objective.means.count_K.tolist() == [3.0] * CLASSES
    fresh = taught("class_mean")
    fresh.load_state_dict(objective.state_dict())
    torch.testing.assert_close(fresh.means.mean_KK, objective.means.mean_KK)


def _update_half(rank: int, folder: str, q: Tensor) -> None:
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    means = TeacherMeans(CLASSES)
    for half in (slice(rank * 6, rank * 6 + 6), slice(rank * 3, rank * 3 + 3)):
        means.update(q[half], Y[half])
    torch.save(means.state_dict(), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_means_of_two_processes_are_those_of_all_images(tmp_path: Path) -> None:
    q = images().flatten(1).softmax(dim=1)
    start_two(_update_half, str(tmp_path), q)
    whole = TeacherMeans(CLASSES)
    whole.update(q, Y)
    whole.update(q[:6], Y[:6])
    for rank in range(2):
        state = torch.load(tmp_path / f"rank{rank}.pt")
        torch.testing.assert_close(state, dict(whole.state_dict()))
