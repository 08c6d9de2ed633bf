"""Mixup and CutMix: pixels and labels by loops, the draws, and what goes around what."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import class_maps
from selfexplain.introspection import Introspective
from selfexplain.models.build import SmallCNN
from selfexplain.objectives import (
    CutMix,
    LabelSmoothing,
    Mixing,
    Mixup,
    Objective,
    Standard,
    WithAuxiliaryHead,
)
from selfexplain.objectives.mixing import Box, draw_box, mass_in_box, paste_box

X = torch.randn(6, 2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 0, 1])


class Spy(Objective):
    """Keeps what it is called with."""

    takes_soft_labels = True

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(70, 4)).double())
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.told: list[Any] = []
        self.period = 3

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        self.seen.append((x, y))
        logits = self.model(x)
        return {"loss": F.cross_entropy(logits, y), "output": logits}

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.told.append((epoch, epochs))

    def skip_warmup(self) -> None:
        self.told.append("warm")


def share_and_partner(mixed_y: Tensor, y: Tensor, i: int) -> tuple[float, int]:
    """What must have been mixed, read off one label: its own class's mass, the other class."""
    others = [k for k in range(4) if k != y[i] and mixed_y[i, k] > 0]
    return float(mixed_y[i, y[i]]), others[0] if others else int(y[i])


def test_mixup_mixes_pixels_as_it_mixes_labels() -> None:
    x, y = X[:4], torch.arange(4)  # all classes differ, so that a label tells the partner
    spy = Spy()
    Mixup(spy, num_classes=4)(x, y)
    mixed_x, mixed_y = spy.seen[0]
    for i in range(4):
        share, j = share_and_partner(mixed_y, y, i)
        for at in np.ndindex(2, 5, 7):
            expected = share * x[i][at] + (1 - share) * x[j][at]
            assert mixed_x[i][at].item() == pytest.approx(expected.item())


def test_cutmix_takes_each_pixel_from_one_of_two_and_counts_them() -> None:
    x, y = X[:4], torch.arange(4)
    spy = Spy()
    objective = CutMix(spy, num_classes=4)
    for _ in range(20):
        objective(x, y)
    for mixed_x, mixed_y in spy.seen:
        for i in range(4):
            share, j = share_and_partner(mixed_y, y, i)
            own = other = 0
            for h, w in np.ndindex(5, 7):
                pixel = mixed_x[i, :, h, w]
                own += torch.equal(pixel, x[i, :, h, w])
                other += torch.equal(pixel, x[j, :, h, w])
            assert own + other == 35 * (1 + (i == j))
            assert i == j or share == pytest.approx(own / 35)
    assert len({float(y.max()) for _, y in spy.seen}) > 5


def test_boxes_have_the_size_asked_for_and_every_centre() -> None:
    generator = np.random.default_rng(0)
    boxes = [draw_box(10, 20, 0.75, generator) for _ in range(2000)]
    assert max(box.area for box in boxes) == 5 * 10
    for box in boxes:
        assert 0 <= box.top < box.bottom <= 10
        assert 0 <= box.left < box.right <= 20
    # A box of 5 rows in 10: without the cut at the border its mean height would be 5; the centre
    # 0 to 9 leaves 3, 4, 5, 5, 5, 5, 5, 5, 4, 3 rows (rows before the centre: 2, after it: 2).
    heights = [min(c + 3, 10) - max(c - 2, 0) for c in range(10)]
    mean = sum(box.bottom - box.top for box in boxes) / len(boxes)
    assert mean == pytest.approx(sum(heights) / 10, abs=0.06)


def test_images_of_the_caller_are_not_changed() -> None:
    before = X.clone()
    for objective in (Mixup(Spy(), 4), CutMix(Spy(), 4)):
        objective(X, Y)
    paste_box(X, torch.arange(6).flip(0), Box(0, 2, 0, 2))
    assert torch.equal(X, before)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_loss_is_the_published_sum_over_both_labels(kind: type[Mixing]) -> None:
    """CE against a mixed label is l CE(y_i) + (1 - l) CE(y_j)."""
    spy = Spy()
    out = kind(spy, num_classes=4)(X[:4], torch.arange(4))
    mixed_x, mixed_y = spy.seen[0]
    expected = 0.0
    for i in range(4):
        share, j = share_and_partner(mixed_y, torch.arange(4), i)
        log_p = spy.model(mixed_x[i : i + 1]).log_softmax(dim=1)[0]
        expected -= (share * log_p[i] + (1 - share) * log_p[j]).item() / 4
    assert out["loss"].item() == pytest.approx(expected)


def test_shares_are_drawn_from_the_beta_distribution() -> None:
    """Mean 1/2, variance 1 / (4 (2 alpha + 1)); a new share and new partners at each step."""
    spy = Spy()
    objective = Mixup(spy, num_classes=4, alpha=0.4)
    x, y = X[:2], torch.tensor([0, 1])
    for _ in range(1500):
        objective(x, y)
    shares = torch.stack([y[0, 0] for _, y in spy.seen])
    mixed = shares[shares < 1]  # an image may be its own partner
    assert len(mixed) / len(shares) == pytest.approx(0.5, abs=0.05)
    assert mixed.mean().item() == pytest.approx(0.5, abs=0.05)
    assert mixed.var().item() == pytest.approx(1 / (4 * 1.8), abs=0.02)


def test_probability_is_the_share_of_steps_that_mix() -> None:
    spy = Spy()
    objective = CutMix(spy, num_classes=4, probability=0.3)
    for _ in range(400):
        objective(X, Y)
    assert sum(not torch.equal(x, X) for x, _ in spy.seen) / 400 == pytest.approx(0.3, abs=0.08)


def test_evaluation_passes_everything_through() -> None:
    spy = Spy()
    Mixup(CutMix(spy, num_classes=4), num_classes=4).eval()(X, Y)
    assert spy.seen[0][0] is X
    assert spy.seen[0][1] is Y


def test_seeds_processes_and_kinds_draw_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    def shares(kind: type[Mixing], seed: int, rank: int) -> list[float]:
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        spy = Spy()
        objective = kind(spy, num_classes=4, seed=seed)
        for _ in range(6):
            objective(X[:4], torch.arange(4))
        return [float(y.amax()) for _, y in spy.seen]

    draws = [
        shares(*what) for what in ((Mixup, 0, 0), (Mixup, 1, 0), (Mixup, 0, 1), (CutMix, 0, 0))
    ]
    assert shares(Mixup, 0, 0) == draws[0]
    assert len({tuple(each) for each in draws}) == 4


def test_state_continues_the_draws_whatever_the_seed_was() -> None:
    first, second = Spy(), Spy()
    unbroken, resumed = Mixup(first, 4, seed=3), Mixup(second, 4, seed=0)
    for _ in range(3):
        unbroken(X, Y)
    resumed.load_state_dict(copy.deepcopy(unbroken.state_dict()))
    unbroken(X, Y)
    resumed(X, Y)
    assert torch.equal(first.seen[-1][0], second.seen[-1][0])


def test_what_the_run_says_reaches_the_objective_inside() -> None:
    spy = Spy()
    objective = Mixup(CutMix(spy, 4), 4)
    objective.begin_epoch(2, 5)
    objective.skip_warmup()
    assert spy.told == [(2, 5), "warm"]
    assert objective.period == 3
    assert objective.model is spy.model


class Remembering(Standard):
    wants_indices = True


def test_objectives_that_cannot_use_mixed_images_are_refused() -> None:
    for inner, message in {
        Introspective: "Introspective needs one class for each image",
        Remembering: "Remembering remembers each image by its place",
    }.items():
        with pytest.raises(InputError, match=message):
            Mixup(inner(Spy().model), num_classes=4)


def test_what_does_not_fit_is_named() -> None:
    for options, message in {
        "alpha": (0.0, "alpha is 0; pass a number above 0"),
        "probability": (2.0, "probability is 2; pass a number from 0 to 1"),
    }.items():
        value, sentence = message
        with pytest.raises(InputError, match=sentence):
            Mixup(Spy(), 4, **{options: value})
    with pytest.raises(InputError, match="label 9 is outside the model's 4 classes"):
        Mixup(Spy(), 4)(X, Y.index_fill(0, torch.tensor([1]), 9))


class TwoHeaded(nn.Module):
    """A linear model with a second head that runs in training."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.auxiliary = nn.Linear(70, 4), nn.Linear(70, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.auxiliary(x.flatten(1))
        return self.head(x.flatten(1))


def test_auxiliary_head_inside_learns_from_the_mixed_labels() -> None:
    model = TwoHeaded().double()
    objective = Mixup(WithAuxiliaryHead(LabelSmoothing(model), weight=0.3), num_classes=4)
    spy = Spy()
    Mixup(spy, num_classes=4)(X, Y)  # the same seed, hence the same draws
    mixed_x, mixed_y = spy.seen[0]
    out = objective(X, Y)
    second = F.cross_entropy(model.auxiliary(mixed_x.flatten(1)), mixed_y)
    first = F.cross_entropy(model.head(mixed_x.flatten(1)), mixed_y, label_smoothing=0.1)
    torch.testing.assert_close(out["auxiliary"], second.detach())
    torch.testing.assert_close(out["loss"], first + 0.3 * second)


def test_auxiliary_head_around_mixing_is_refused() -> None:
    with pytest.raises(InputError, match=r"pass Mixup\(WithAuxiliaryHead\(...\), ...\)"):
        WithAuxiliaryHead(Mixup(Standard(TwoHeaded()), 4))


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_what_can_be_tuned_is_an_option(kind: type[Mixing]) -> None:
    for option, values in kind.tunable.items():
        ends = dataclasses.astuple(values)[:2] if option == "alpha" else values.values
        for end in ends:
            kind(Spy(), 4, **{option: end})


# Labels by explanation.


class CnnSpy(Spy):
    """The same, with a model that has class maps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = SmallCNN(4, in_channels=2, width=8).double()


def test_labels_by_explanation_are_the_maps_shares_of_the_same_boxes() -> None:
    by_area, explained = (CutMix(CnnSpy(), 4, seed=3, labels=w) for w in ("area", "explanation"))
    x = torch.randn(6, 2, 16, 12, generator=torch.Generator().manual_seed(0)).double()
    for each in (by_area, explained):
        each(x, Y)
    (pasted, area_y), (same, y) = by_area.objective.seen[0], explained.objective.seen[0]
    assert torch.equal(pasted, same)
    assert not torch.equal(area_y, y)
    maps = F.interpolate(
        class_maps(CnnSpy().model, x), size=(16, 12), mode="bilinear", align_corners=False
    )
    for i in range(6):
        kept = (pasted[i] == x[i]).all(dim=0)
        if kept.all():
            continue
        j = next(j for j in range(6) if torch.equal(pasted[i][:, ~kept], x[j][:, ~kept]))
        expected = torch.zeros(4, dtype=torch.float64)
        for image, places in ((i, kept), (j, ~kept)):
            map_HW = maps[image, Y[image]]
            map_HW = map_HW - map_HW.min()
            expected[Y[image]] += map_HW[places].sum() / map_HW.sum()
        torch.testing.assert_close(y[i], expected)
    assert not torch.allclose(y.sum(dim=1), torch.ones(6).double())  # as published


def test_a_map_of_one_value_counts_area() -> None:
    box = Box(1, 3, 0, 3)
    for value in (7.0, 0.1, 0.0, -1e6):
        found = mass_in_box(torch.full((2, 2, 2), value), (4, 6), box)
        torch.testing.assert_close(found, torch.full((2,), 0.25))
    assert mass_in_box(torch.rand(1, 2, 2), (4, 6), Box(0, 0, 2, 2)).tolist() == [0.0]
    torch.testing.assert_close(
        mass_in_box(torch.randn(1, 3, 3), (4, 6), Box(0, 4, 0, 6)), torch.ones(1)
    )


def test_labels_by_explanation_of_mixed_labels_read_the_mean_map() -> None:
    """Mixup inside hands on labels of two classes, whose maps are summed as the labels are."""
    soft = torch.rand(6, 4, dtype=torch.float64).softmax(dim=1)
    objective = CutMix(CnnSpy(), 4, seed=3, labels="explanation")
    x = torch.randn(6, 2, 8, 8).double()
    before = copy.deepcopy(objective.state_dict())
    objective(x, soft)
    y_BK = objective.objective.seen[0][1]
    assert y_BK.shape == (6, 4)
    assert (y_BK >= 0).all()
    after = {n: v for n, v in objective.state_dict().items() if n.endswith("num_batches_tracked")}
    assert after
    assert all(torch.equal(v, before[n] + 1) for n, v in after.items())  # one pass, not two


def test_labels_by_explanation_need_a_layer_to_explain() -> None:
    with pytest.raises(InputError, match="labels is 'map'; pass one of area, explanation"):
        CutMix(Spy(), 4, labels="map")  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"labels by explanation: kind .cam. needs .*; pass labels area"
    ):
        CutMix(Spy(), 4, labels="explanation")(X, Y)
