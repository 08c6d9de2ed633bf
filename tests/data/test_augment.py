import time

import pytest
import torch
import torch.nn.functional as F

from selfexplain.data import Augmentation, AugmentationParams, augment, draw
from selfexplain.errors import InputError


def twin(images_BCHW, params):
    """Plain reference: one image after another, cutting and pasting."""
    padding, side = params.crop_padding, params.cutout
    out = []
    for image_CHW, offset, flip, centre in zip(
        images_BCHW,
        params.offsets_B2.tolist(),
        params.flips_B.tolist(),
        params.centres_B2.tolist(),
        strict=True,
    ):
        C, H, W = image_CHW.shape
        canvas = torch.zeros(C, H + 2 * padding, W + 2 * padding, dtype=image_CHW.dtype)
        canvas[:, padding : padding + H, padding : padding + W] = image_CHW
        top, left = offset
        crop = canvas[:, top : top + H, left : left + W].clone()
        if flip:
            crop = torch.flip(crop, [2])
        for row in range(H):
            for column in range(W):
                if 0 <= row - (centre[0] - side // 2) < side and (
                    0 <= column - (centre[1] - side // 2) < side
                ):
                    crop[:, row, column] = 0
        out.append(crop)
    return torch.stack(out)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("cutout", [0, 1, 4, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_augment_equals_its_twin(padding, flip, cutout, channels):
    images_BCHW = torch.randint(1, 256, (20, channels, 7, 9), generator=generator()).byte()
    original = images_BCHW.clone()
    augmentation = Augmentation(crop_padding=padding, flip=flip, cutout=cutout)
    params = draw(augmentation, 20, 7, 9, generator(1))
    result = augment(images_BCHW, params)
    assert torch.equal(result, twin(images_BCHW, params))
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
    assert torch.equal(images_BCHW, original)


def test_nothing_switched_on_changes_nothing():
    images_BCHW = torch.randint(0, 256, (4, 3, 8, 8)).byte()
    off = Augmentation(crop_padding=0, flip=False, cutout=0)
    assert torch.equal(augment(images_BCHW, draw(off, 4, 8, 8, generator())), images_BCHW)


def test_draws_reach_every_value_and_no_other():
    params = draw(Augmentation(crop_padding=2), 2000, 6, 5, generator())
    assert params.offsets_B2.unique().tolist() == [0, 1, 2, 3, 4]
    assert params.centres_B2[:, 0].unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert params.centres_B2[:, 1].unique().tolist() == [0, 1, 2, 3, 4]
    assert 0.45 < params.flips_B.float().mean() < 0.55


def test_draw_depends_on_its_generator_alone():
    before = torch.get_rng_state()
    first = draw(Augmentation(), 8, 8, 8, generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.offsets_B2, draw(Augmentation(), 8, 8, 8, generator(3)).offsets_B2)
    other = draw(Augmentation(), 8, 8, 8, generator(4))
    assert not torch.equal(first.offsets_B2, other.offsets_B2)


def test_part_slices_every_parameter():
    params = draw(Augmentation(cutout=3), 8, 8, 8, generator())
    images_BCHW = torch.randint(0, 256, (8, 1, 8, 8)).byte()
    part = params.part(slice(2, 5))
    assert isinstance(part, AugmentationParams)
    assert torch.equal(augment(images_BCHW[2:5], part), augment(images_BCHW, params)[2:5])


def test_augment_is_far_cheaper_than_a_small_convolution():
    images_BCHW = torch.randint(0, 256, (128, 3, 32, 32)).byte()
    params = draw(Augmentation(cutout=8), 128, 32, 32, generator())
    x_BCHW, weight = images_BCHW.float(), torch.randn(16, 3, 3, 3)
    wide_BCHW, wide_weight = F.conv2d(x_BCHW, weight, padding=1), torch.randn(16, 16, 3, 3)

    def seconds(call):
        start = time.thread_time()  # of this thread's work: others may have the cores meanwhile
        call()
        return time.thread_time() - start

    def layer():  # one, forward only
        return F.conv2d(wide_BCHW, wide_weight, padding=1)

    times = [(seconds(layer), seconds(lambda: augment(images_BCHW, params))) for _ in range(6)]
    cnn, augmenting = (min(each) for each in zip(*times, strict=True))
    assert augmenting < cnn


@pytest.mark.parametrize("name", ["crop_padding", "cutout"])
def test_negative_numbers(name):
    with pytest.raises(InputError, match=f"{name} is -1; pass a whole number of at least 0"):
        Augmentation(**{name: -1})
