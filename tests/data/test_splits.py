from dataclasses import replace

import pytest
import torch

from selfexplain.data import hold_out, take
from selfexplain.errors import InputError
from selfexplain.experiments.data import load, prepare
from selfexplain.experiments.options import DataOptions

LABELS_N = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100)]


def counts(indices, labels_N=LABELS_N):
    return torch.bincount(labels_N[indices], minlength=int(labels_N.max()) + 1).tolist()


def test_hold_out_keeps_proportions_and_loses_nothing():
    train, held_out = hold_out(LABELS_N, 0.2, seed=1)
    assert counts(held_out) == [10, 6, 4]
    assert torch.equal(torch.cat([train, held_out]).sort().values, torch.arange(100))
    for part in (train, held_out):
        assert part.dtype == torch.int64
        assert torch.equal(part, part.sort().values)


@pytest.mark.parametrize("fraction", [0.001, 0.07, 0.33, 0.5, 0.9, 0.999])
def test_hold_out_totals_are_exact(fraction):
    train, held_out = hold_out(LABELS_N, fraction, seed=0)
    assert len(held_out) == min(max(1, round(100 * fraction)), 99)
    assert len(train) + len(held_out) == 100


def test_hold_out_gives_each_class_to_both_parts_where_it_can():
    labels_N = torch.tensor([0] * 96 + [1] * 2 + [2] * 2)
    train, held_out = hold_out(labels_N, 0.1, seed=0)
    assert counts(held_out, labels_N) == [8, 1, 1]
    assert counts(train, labels_N) == [88, 1, 1]


def test_a_class_of_one_image_stays_in_the_training_part():
    labels_N = torch.tensor([0] * 9 + [1])
    _, held_out = hold_out(labels_N, 0.5, seed=0)
    assert counts(held_out, labels_N) == [5, 0]


def test_hold_out_of_classes_of_one_image_each_still_has_the_exact_total():
    assert len(hold_out(torch.arange(6), 0.5, seed=0)[1]) == 3


def test_take_is_exact_stratified_and_sorted():
    chosen = take(LABELS_N, 10, seed=3)
    assert counts(chosen) == [5, 3, 2]
    assert torch.equal(chosen, chosen.sort().values)


@pytest.mark.parametrize("size", [3, 4, 7, 59, 99, 100])
def test_take_has_every_class_and_no_image_twice(size):
    labels_N = torch.tensor([0] * 97 + [2, 3, 2])  # class 1 does not occur
    chosen = take(labels_N, size, seed=0)
    assert len(chosen) == len(set(chosen.tolist())) == size
    present = counts(chosen, labels_N)
    assert present[1] == 0
    assert min(present[0], present[2], present[3]) >= 1


def test_splits_depend_on_the_seed_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = hold_out(LABELS_N, 0.3, seed=5)[1], take(LABELS_N, 30, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again = hold_out(LABELS_N, 0.3, seed=5)[1], take(LABELS_N, 30, seed=5)
    other = hold_out(LABELS_N, 0.3, seed=6)[1], take(LABELS_N, 30, seed=6)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fraction_out_of_range(fraction):
    with pytest.raises(InputError, match=r"fraction to hold out is .*; pass a number between 0"):
        hold_out(LABELS_N, fraction, seed=0)


def test_one_image_cannot_be_split():
    with pytest.raises(InputError, match="the number of images to split is 1; pass at least 2"):
        hold_out(torch.tensor([0]), 0.5, seed=0)


@pytest.mark.parametrize("size", [0, 2, 101])
def test_size_out_of_range(size):
    with pytest.raises(InputError, match=rf"{size} images were requested; .*from 3 .*to 100"):
        take(LABELS_N, size, seed=0)


def test_test_size_draws_the_same_test_images_for_all_seeds_and_leaves_training_alone() -> None:
    few, all_ = DataOptions(data="digits", test_size=50), DataOptions(data="digits")
    data = load(few)
    first, second = (prepare(data, few, seed).scored.labels_N for seed in (0, 1))
    assert len(first) == 50
    assert torch.equal(first, second)
    assert first.bincount().tolist() == pytest.approx([5] * 10, abs=1)
    assert len(prepare(data, few, 0).train) == len(prepare(data, all_, 0).train)
    held_out = replace(few, validation=0.2)
    assert len(prepare(data, held_out, 0).scored) > 50  # these are training images


def test_more_test_images_than_there_are_are_refused() -> None:
    options = DataOptions(data="digits", test_size=10**6)
    with pytest.raises(InputError, match=r"1000000 images were requested; pass a size from 10"):
        prepare(load(options), options, 0)
