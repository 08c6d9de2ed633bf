import itertools
import random

import numpy as np
import pytest
import torch

from selfexplain.data import (
    Augmentation,
    Batches,
    MemoryImages,
    StreamedImages,
    channel_statistics,
    normalise,
)
from selfexplain.data.decode import Arrays, Decoding
from selfexplain.errors import InputError

N = 50
PIXELS_NHW = np.random.default_rng(0).integers(0, 256, (N, 8, 8), dtype=np.uint8)
MEMORY = MemoryImages(torch.from_numpy(PIXELS_NHW)[:, None], torch.arange(N))
RULE = Decoding(shape_CHW=(1, 8, 8), image_size=None, example="number 0")
STREAMED = StreamedImages(Arrays(PIXELS_NHW), torch.arange(N), torch.arange(N), RULE)
STATISTICS = (torch.tensor([0.4]), torch.tensor([0.3]))
AUGMENTATION = Augmentation(crop_padding=2, cutout=3)


def batches(images=MEMORY, **changes):
    options = {
        "batch_size": 12,
        "seed": 7,
        "augmentation": AUGMENTATION,
        "mean_C": torch.tensor([0.4]),
        "std_C": torch.tensor([0.3]),
    }
    return Batches(images, **(options | changes))


def assert_same(first, second):
    for (x_BCHW, labels_B), (other_x_BCHW, other_labels_B) in zip(first, second, strict=True):
        assert torch.equal(labels_B, other_labels_B)
        assert torch.equal(x_BCHW, other_x_BCHW)


def test_batches_are_the_normalised_images_of_their_labels():
    plain = batches(augmentation=None)
    seen = []
    for x_BCHW, labels_B in plain.epoch(0):
        expected = (torch.from_numpy(PIXELS_NHW)[labels_B][:, None].float() / 255 - 0.4) / 0.3
        torch.testing.assert_close(x_BCHW, expected)
        assert (x_BCHW.dtype, labels_B.dtype) == (torch.float32, torch.int64)
        assert x_BCHW.is_contiguous()
        seen += labels_B.tolist()
    assert len(plain) == 4
    assert len(seen) == len(set(seen)) == 48
    assert seen != sorted(seen)


def test_padding_is_black_before_normalising():
    white = MemoryImages(torch.full((12, 1, 8, 8), 255, dtype=torch.uint8), torch.arange(12))
    x_BCHW, _ = next(batches(white).epoch(0))
    assert sorted({round(value, 4) for value in x_BCHW.flatten().tolist()}) == [
        round(-0.4 / 0.3, 4),
        round(0.6 / 0.3, 4),
    ]


def test_without_shuffle_the_order_is_that_of_the_set():
    labels = torch.cat([labels_B for _, labels_B in batches(shuffle=False).epoch(3)])
    assert torch.equal(labels, torch.arange(48))


def test_epochs_and_seeds_differ_and_repeat():
    def first(seed, epoch):
        return next(batches(seed=seed).epoch(epoch))

    assert_same([first(0, 1)], [first(0, 1)])
    for other in (first(1, 0), first(0, 0), first(1, 1), first(-1, 1)):
        assert not torch.equal(first(0, 1)[1], other[1])


def test_augmentation_differs_between_steps_and_epochs():
    same = MemoryImages(MEMORY.images_NCHW[:1].expand(24, 1, 8, 8).contiguous(), torch.arange(24))
    (x_0, _), (x_1, _) = batches(same).epoch(0)
    x_2, _ = next(batches(same).epoch(1))
    assert not torch.equal(x_0, x_1)
    assert not torch.equal(x_0, x_2)


@pytest.mark.parametrize("images", [MEMORY, STREAMED])
def test_any_step_is_produced_without_those_before_it(images):
    whole = list(batches(images).epoch(5))
    assert_same(whole[2:], batches(images).epoch(5, start_step=2))
    assert list(batches(images).epoch(5, start_step=4)) == []


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_together_see_what_one_sees(world_size):
    parts = [list(batches(rank=rank, world_size=world_size).epoch(2)) for rank in range(world_size)]
    joined = [
        (torch.cat([x for x, _ in step]), torch.cat([labels for _, labels in step]))
        for step in zip(*parts, strict=True)
    ]
    assert_same(batches().epoch(2), joined)


def test_last_short_batch_is_shared_and_empty_parts_are_skipped():
    options = {"drop_last": False, "batch_size": 16}  # 50 = 3 * 16 + 2
    parts = [list(batches(rank=rank, world_size=4, **options).epoch(0)) for rank in range(4)]
    sizes = [[len(labels_B) for _, labels_B in part] for part in parts]
    assert sizes == [[4, 4, 4, 1], [4, 4, 4, 1], [4, 4, 4], [4, 4, 4]]
    assert len(batches(**options)) == 4
    *_, (x_BCHW, labels_B) = batches(**options).epoch(0)
    assert torch.equal(torch.cat([parts[0][3][0], parts[1][3][0]]), x_BCHW)
    assert torch.equal(torch.cat([parts[0][3][1], parts[1][3][1]]), labels_B)


def test_batch_larger_than_the_data_is_one_short_batch_without_drop_last():
    assert [len(labels_B) for _, labels_B in batches(batch_size=60, drop_last=False).epoch(0)] == [
        50
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_equal_those_from_memory(workers):
    streamed = batches(STREAMED, workers=workers, drop_last=False)
    assert_same(batches(drop_last=False).epoch(1), streamed.epoch(1))


@pytest.mark.parametrize(("images", "workers"), [(MEMORY, 0), (STREAMED, 0), (STREAMED, 1)])
def test_global_generators_stay_untouched(images, workers):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(batches(images, workers=workers).epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002


def test_memory_images_are_not_copied_when_they_are_in_place():
    held = batches().images.images_NCHW
    assert held.dtype == torch.uint8
    assert held.data_ptr() == MEMORY.images_NCHW.data_ptr()


def test_normalise_makes_channels_last_contiguous():
    images_BCHW = torch.zeros(2, 3, 4, 5, dtype=torch.uint8).to(memory_format=torch.channels_last)
    assert normalise(images_BCHW, torch.zeros(3), torch.ones(3)).is_contiguous()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; pass a number of at least 1"),
        (
            {"batch_size": 51},
            "batch_size is 51, but .* only 50 images .*pass a batch_size of at most 50",
        ),
        ({"world_size": 5}, "batch_size 12 cannot be shared evenly by 5 .*multiple of 5"),
        ({"world_size": 2, "rank": 2}, "rank 2 of world_size 2 does not exist"),
        ({"world_size": 0}, "rank 0 of world_size 0 does not exist"),
        ({"workers": -1}, "workers is -1"),
        ({"mean_C": torch.zeros(3)}, "one value for each of the 1 channels"),
        ({"std_C": torch.tensor(1.0)}, "one value for each of the 1 channels"),
        ({"augmentation": Augmentation(crop_padding=8)}, "do not fit images of 8 x 8"),
        ({"augmentation": Augmentation(cutout=9)}, "do not fit images of 8 x 8"),
        ({"images": MEMORY.subset(torch.tensor([], dtype=torch.long))}, "image set is empty"),
    ],
)
def test_input_that_does_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        batches(**changes)


@pytest.mark.parametrize("start_step", [-1, 5])
def test_start_step_out_of_range_is_said_at_once(start_step):
    with pytest.raises(InputError, match=rf"start_step is {start_step}; pass a number from 0 to 4"):
        batches().epoch(0, start_step=start_step)


def test_statistics_are_those_of_all_pixels():
    pixels_NCHW = torch.randint(0, 256, (1200, 3, 4, 5)).byte()
    mean_C, std_C = channel_statistics(MemoryImages(pixels_NCHW, torch.zeros(1200)))
    unit = pixels_NCHW.double() / 255
    torch.testing.assert_close(mean_C, unit.mean((0, 2, 3)).float())
    torch.testing.assert_close(std_C, unit.std((0, 2, 3), correction=0).float())
    assert mean_C.dtype == std_C.dtype == torch.float32


def test_statistics_look_at_ten_thousand_evenly_spaced_images():
    asked = []

    class Recorded(MemoryImages):
        def read(self, indices_B):
            asked.extend(indices_B.tolist())
            return super().read(indices_B)

    channel_statistics(
        Recorded(torch.zeros(20_001, 1, 1, 1, dtype=torch.uint8), torch.zeros(20_001))
    )
    assert len(set(asked)) == 10_000
    assert (asked[0], asked[-1]) == (0, 20_000)
    assert {b - a for a, b in itertools.pairwise(asked)} <= {2, 3}


def test_statistics_of_streamed_images_and_of_one_grey():
    for ours, theirs in zip(channel_statistics(MEMORY), channel_statistics(STREAMED), strict=True):
        assert torch.equal(ours, theirs)
    grey = MemoryImages(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8), torch.zeros(3))
    mean_C, std_C = channel_statistics(grey)
    assert mean_C.item() == pytest.approx(0.2)
    assert std_C.item() == pytest.approx(1 / 255)


def test_statistics_of_an_empty_set():
    with pytest.raises(InputError, match="the image set is empty"):
        channel_statistics(MEMORY.subset(torch.tensor([], dtype=torch.long)))


@pytest.mark.parametrize("images", [MEMORY, STREAMED])
def test_subset_has_its_images_and_labels(images):
    part = images.subset(torch.tensor([9, 3, 4])).subset(torch.tensor([2, 0]))
    assert type(part) is type(images)
    assert len(part) == 2
    assert part.labels_N.tolist() == [4, 9]
    assert torch.equal(part.read(torch.tensor([1])), MEMORY.images_NCHW[9:10])
    assert part.shape_CHW == (1, 8, 8)


def test_streamed_subset_is_a_view():
    assert STREAMED.subset(torch.tensor([1])).source is STREAMED.source


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 8, 8), torch.zeros(2), "pass a torch.uint8 tensor"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), torch.zeros(2), "pass a torch.uint8 tensor"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3), "one label for each image"),
    ],
)
def test_memory_images_that_do_not_fit_their_labels(images, labels, message):
    with pytest.raises(InputError, match=message):
        MemoryImages(images, labels)


def test_alternating_flips_show_every_image_both_ways_in_two_epochs():
    """And the crops stay those that would be drawn with flips by chance."""
    alternating = batches(augmentation=Augmentation(crop_padding=0, alternate_flip=True))
    ways = {}
    for epoch in range(4):
        for x_BCHW, labels_B in alternating.epoch(epoch):
            upright_BCHW = normalise(MEMORY.read(labels_B), *STATISTICS)
            for x, upright, label in zip(x_BCHW, upright_BCHW, labels_B.tolist(), strict=True):
                mirrored = torch.equal(x, upright.flip(2))
                assert mirrored or torch.equal(x, upright)
                ways.setdefault(label, {})[epoch] = mirrored
    assert all(
        way[e] == (way[min(way)] ^ ((e - min(way)) % 2)) for way in ways.values() for e in way
    )
    assert 10 < sum(way[min(way)] ^ (min(way) % 2) for way in ways.values()) < 40
    two = Augmentation(crop_padding=2, alternate_flip=True)
    chance = Augmentation(crop_padding=2)
    for (x_BCHW, _), (y_BCHW, _) in zip(
        batches(augmentation=two).epoch(3), batches(augmentation=chance).epoch(3), strict=True
    ):
        for x, y in zip(x_BCHW, y_BCHW, strict=True):
            assert torch.equal(x, y) or torch.equal(x, y.flip(2))
    with pytest.raises(InputError, match="alternate_flip needs flip"):
        Augmentation(flip=False, alternate_flip=True)


def test_alternating_flips_of_two_processes_are_those_of_one():
    options = {"augmentation": Augmentation(alternate_flip=True)}
    halves = [batches(rank=rank, world_size=2, **options).epoch(1) for rank in range(2)]
    for (x_BCHW, _), *parts in zip(batches(**options).epoch(1), *halves, strict=True):
        assert torch.equal(x_BCHW, torch.cat([part for part, _ in parts]))
