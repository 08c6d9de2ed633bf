"""Objectives that look back at predictions or images, held to plain second formulations."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.two_processes import start_two
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.introspection import OwnMass
from selfexplain.models import build_model
from selfexplain.objectives import CSKD, DLB, PSKD, Objective, OnlineLabelSmoothing
from selfexplain.objectives.shared.base import softened_kl
from selfexplain.objectives.shared.memory import TensorMemory

K = 4


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("small_cnn", num_classes=K, in_channels=1).double()


def images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, K, (count,), generator=generator)


def kl(q: list[float], p: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True) if a > 0)


def softmax(z: Tensor, temperature: float = 1.0) -> list[float]:
    e = [math.exp(v / temperature) for v in z.tolist()]
    return [v / sum(e) for v in e]


def test_softened_kl_by_definition() -> None:
    z, t = torch.randn(2, 3, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [9 * kl(softmax(b, 3), softmax(a, 3)) for a, b in zip(z, t, strict=True)]
    torch.testing.assert_close(softened_kl(z, t, 3.0).tolist(), expected, rtol=1e-9, atol=0)


def test_ps_kd_follows_the_predictions_of_each_image() -> None:
    """Three epochs in different orders, each leaving out other images; a dictionary remembers."""
    model = make_model()
    objective = PSKD(model, num_images=8, num_classes=K, alpha=0.6).double()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    x, y = images(8)
    past: dict[int, list[float]] = {}
    orders = ([0, 1, 2, 3, 4, 5], [7, 5, 3, 1, 0, 2], [6, 4, 2, 0, 7, 1])
    for epoch, order in enumerate(orders):
        objective.begin_epoch(epoch, 3)
        alpha = 0.6 * (epoch + 1) / 3
        for places in (order[:3], order[3:]):
            index = torch.tensor(places)
            out = objective(x[index], y[index], index)
            expected = 0.0
            for i, place in enumerate(places):
                p = softmax(out["output"][i])
                onehot = [float(c == y[place]) for c in range(K)]
                old = past.get(place, onehot)
                target = [(1 - alpha) * a + alpha * b for a, b in zip(onehot, old, strict=True)]
                expected -= sum(t * math.log(q) for t, q in zip(target, p, strict=True)) / 3
                past[place] = p
            assert out["loss"].item() == pytest.approx(expected, rel=1e-9)
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()


def remembering() -> list[Objective]:
    """Objectives with tables of images, in their second epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, K))
    made: list[Objective] = [
        PSKD(model, num_images=8, num_classes=K),
        OwnMass(model, num_images=8, rho=0.5, mass_from="average"),
        OwnMass(model, num_images=8, kappa="learned"),
    ]
    for objective in made:
        objective.begin_epoch(1, 3)
    return made


def test_two_processes_remember_what_one_does(tmp_path: Path) -> None:
    x, y = torch.randn(6, 6, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1])
    index = torch.tensor([5, 0, 7, 3, 2, 6])
    start_two(_half_of_each, str(tmp_path), x, y, index)
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for i, whole in enumerate(remembering()):
        whole(x, y, index)
        whole.begin_epoch(2, 3)  # when weights are fitted
        for name, value in whole.state_dict().items():
            for half in halves:
                torch.testing.assert_close(half[i][name], value, msg=f"{type(whole)}: {name}")


def _half_of_each(rank: int, folder: str, x: Tensor, y: Tensor, index: Tensor) -> None:
    _join(rank, folder)
    mine, states = slice(3 * rank, 3 * rank + 3), []
    for half in remembering():
        half(x[mine], y[mine], index[mine])
        half.begin_epoch(2, 3)
        states.append(half.state_dict())
    torch.save(states, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _join(rank: int, folder: str) -> None:
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)


def test_ps_kd_refuses_what_would_make_it_another_method() -> None:
    objective = PSKD(make_model(), num_images=8, num_classes=K).double()
    x, y = images(4)
    with pytest.raises(InputError, match=r"call objective.begin_epoch\(epoch, epochs\)"):
        objective(x, y, torch.arange(4))
    objective.begin_epoch(0, 1)
    with pytest.raises(InputError, match=r"with an index of shape \(4,\)"):
        objective(x, y)
    with pytest.raises(InputError, match="index 8 is outside the 8 training images"):
        objective(x, y, torch.tensor([0, 1, 2, 8]))


def test_cs_kd_pairs_each_image_with_the_one_of_its_class_before_it() -> None:
    """A dictionary keeps the last image of each class, a copy of the model teaches."""
    objective = CSKD(make_model(), weight=0.7, temperature=3.0).double()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    last: dict[int, Tensor] = {}
    for step in range(4):
        x, y = images(5, seed=step)
        teacher = copy.deepcopy(objective.model)
        partners: list[Tensor | None] = []
        for image, label in zip(x, y.tolist(), strict=True):
            partners.append(last.get(label))
            last[label] = image
        filled = [image if p is None else p for image, p in zip(x, partners, strict=True)]
        taught = teacher(torch.stack(filled))
        out = objective(x, y)
        expected = 0.0
        for i, partner in enumerate(partners):
            p = softmax(out["output"][i])
            expected -= math.log(p[y[i]]) / 5
            if partner is not None:
                student = softmax(out["output"][i], 3)
                expected += 0.7 * 9 * kl(softmax(taught[i], 3), student) / 5
        assert out["loss"].item() == pytest.approx(expected, rel=1e-9)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    assert len(last) == K  # or memory and batch were not both asked


def test_cs_kd_teaches_without_being_taught() -> None:
    """The gradient is that of a loss whose partners' logits are numbers."""
    objective = CSKD(make_model())
    x, y = images(6)
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    numbers = copy.deepcopy(objective.model)(x[[0, 0, 2, 2, 4, 4]]).detach()
    objective(x, y)["loss"].backward()
    twin = make_model()
    z = twin(x)
    learns = torch.tensor([False, True] * 3)
    term = F.kl_div(
        F.log_softmax(z[learns] / 4, 1), F.softmax(numbers[learns] / 4, 1), reduction="sum"
    )
    (F.cross_entropy(z, y) + 16 * term / 6).backward()
    for ours, theirs in zip(objective.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_cs_kd_refuses_images_of_another_size_than_before() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    objective = CSKD(model)
    y = torch.tensor([0, 2])
    objective(torch.zeros(2, 1, 8, 8), y)
    said = r"have shape \(1, 6, 8\), and .* had \(1, 8, 8\); pass images of one size"
    with pytest.raises(InputError, match=said):
        objective(torch.zeros(2, 1, 6, 8), y)
    objective(torch.zeros(2, 1, 8, 8), y)["loss"].backward()


def test_dlb_repeats_the_last_batch_and_keeps_to_what_it_said() -> None:
    objective = DLB(make_model(), alpha=0.7, temperature=2.0).double()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    last: tuple[Tensor, Tensor, Tensor] | None = None
    for step in range(3):
        x, y = images(5, seed=step)
        twin = copy.deepcopy(objective.model)
        out = objective(x, y)
        z = twin(x)
        losses = [-math.log(softmax(z[i])[y[i]]) for i in range(5)]
        expected = sum(losses) / 5
        if last is not None:
            again = twin(last[0])
            losses += [-math.log(softmax(again[i])[last[1][i]]) for i in range(5)]
            pairs = [(softmax(last[2][i], 2), softmax(again[i], 2)) for i in range(5)]
            expected = sum(losses) / 10 + 0.7 * 4 * sum(kl(q, p) for q, p in pairs) / 5
        assert out["loss"].item() == pytest.approx(expected, rel=1e-9)
        last = (x.clone(), y, z.detach())
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        x.zero_()  # what the caller does with its tensors afterwards is no matter


def test_dlb_shows_batch_norm_each_batch_and_then_the_one_before() -> None:
    objective, plain = DLB(make_model()).double(), make_model()
    for step in range(3):
        objective(*images(5, seed=step))
    for step in (0, 1, 0, 2, 1):
        plain(images(5, seed=step)[0])
    ours, theirs = dict(objective.model.named_buffers()), dict(plain.named_buffers())
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


def test_dlb_in_evaluation_is_the_cross_entropy() -> None:
    objective = DLB(make_model()).double()
    objective(*images(5))
    x, y = images(3, seed=1)
    loss = objective.eval()(x, y)["loss"]
    torch.testing.assert_close(loss, F.cross_entropy(objective.model(x), y))


def distributed(name: str) -> Objective:
    torch.manual_seed(0)
    model = build_model("small_cnn", num_classes=K, in_channels=1)
    if name == "ps_kd":
        return PSKD(model, num_images=8, num_classes=K)
    if name == "ols":
        return OnlineLabelSmoothing(model, num_classes=K)
    if name == "own_mass":
        return OwnMass(model, num_images=8, rho=0.5, kappa="learned", mass_from="average")
    return CSKD(model) if name == "cs_kd" else DLB(model)


NAMES = ("ps_kd", "own_mass", "ols", "cs_kd", "dlb")


def test_processes_that_train_together_hold_one_state(tmp_path: Path) -> None:
    """So that the checkpoint of the first is all that there is to save."""
    start_two(_train_distributed, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2))
    for name in NAMES:
        for key, value in first[name].items():
            if not key.startswith("model."):  # BatchNorm's statistics are each process's own
                assert torch.equal(value, second[name][key]), (name, key)
    # The memories hold the whole batch, not one half of it twice.
    assert (first["ps_kd"]["past_NK"].sum(dim=1) > 0).all()
    x = images(8, seed=1)[0].float()
    last = distributed("dlb")
    last.load_state_dict(first["dlb"])
    assert torch.equal(last.last["x_BCHW"], x)


def _train_distributed(rank: int, folder: str) -> None:
    _join(rank, folder)
    states = {}
    for name in NAMES:
        objective = distributed(name)
        wrapped = nn.parallel.DistributedDataParallel(objective)
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
        for epoch in range(2):
            objective.begin_epoch(epoch, 2)
            x, y = images(8, seed=epoch)
            mine = torch.arange(8)[4 * rank : 4 * rank + 4]
            index = (mine,) if objective.wants_indices else ()
            optimizer.zero_grad()
            wrapped(x[mine].float(), y[mine], *index)["loss"].backward()
            optimizer.step()
            wrapped(x[mine].float(), y[mine], *index)  # copies the first process's buffers
        states[name] = objective.state_dict()
    torch.save(states, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_memory_that_was_kept_in_inference_mode_can_be_overwritten() -> None:
    memory = TensorMemory("a")
    with torch.inference_mode():
        memory.keep(a=torch.zeros(3))
    memory.keep(a=torch.ones(3))
    assert torch.equal(memory["a"], torch.ones(3))
    place = memory.view("a").data_ptr()
    memory.keep(a=torch.zeros(3))
    assert memory.view("a").data_ptr() == place  # as before, in the same memory


def test_memory_loads_what_was_saved_whatever_its_size() -> None:
    full, other = TensorMemory("a", "b"), TensorMemory("a", "b")
    full.keep(a=torch.ones(2, 3), b=torch.tensor([True]))
    other.keep(a=torch.zeros(7), b=torch.zeros(1))
    other.load_state_dict(full.state_dict())
    assert torch.equal(other["a"], torch.ones(2, 3))
    assert other["b"].dtype == torch.bool
    other.load_state_dict(TensorMemory("a", "b").state_dict())
    assert other.empty
