"""Corruptions against scipy and plain formulas."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from selfexplain.data import (
    CORRUPTIONS,
    Batches,
    MemoryImages,
    contrast,
    find_corruption,
    gaussian_blur,
    gaussian_noise,
    normalise,
)
from selfexplain.errors import InputError

torch.manual_seed(0)
PIXELS = torch.randint(0, 256, (6, 3, 9, 12), dtype=torch.uint8)
IMAGES = PIXELS.double() / 255
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])


def batches(corruption: str | None, **options: object) -> list[torch.Tensor]:
    images = MemoryImages(PIXELS, torch.arange(6))
    made = Batches(
        images,
        **{"batch_size": 4, "shuffle": False, "drop_last": False} | options,
        corruption=corruption,
        mean_C=MEAN,
        std_C=STD,
    )
    return [x for x, _ in made.epoch(0)]


@pytest.mark.parametrize("sigma", [0.4, 0.7, 1.0, 4.0])  # the last is wider than the image
def test_blur_equals_scipy(sigma: float) -> None:
    made = gaussian_blur(IMAGES, sigma)
    for b in range(6):
        for c in range(3):
            theirs = ndimage.gaussian_filter(IMAGES[b, c].numpy(), sigma, mode="nearest")
            assert np.allclose(made[b, c].numpy(), theirs, atol=1e-12)


def test_contrast_by_definition() -> None:
    made = contrast(IMAGES, 0.4)
    for b in range(6):
        for c in range(3):
            x = IMAGES[b, c].numpy()
            assert np.allclose(made[b, c].numpy(), (x - x.mean()) * 0.4 + x.mean())


def test_noise_has_the_spread_asked_for_and_stays_in_range() -> None:
    grey = torch.full((1, 1, 200, 200), 0.5, dtype=torch.float64)
    normal = torch.randn(grey.shape, generator=torch.Generator().manual_seed(0))
    assert (gaussian_noise(grey, 0.1, normal) - grey).std().item() == pytest.approx(0.1, rel=0.02)
    loud = gaussian_noise(grey, 5.0, normal)
    assert (loud.min().item(), loud.max().item()) == (0, 1)


def distance(name: str) -> float:
    corruption = find_corruption(name)
    drawn = corruption.draw((3, 9, 12), [torch.Generator().manual_seed(i) for i in range(6)])
    made = corruption.apply(PIXELS, drawn)
    assert (made.dtype, made.shape) == (torch.uint8, PIXELS.shape)
    return (made.double() / 255 - IMAGES).square().mean().item()


@pytest.mark.parametrize("kind", ["gaussian_noise", "gaussian_blur", "contrast"])
def test_a_higher_severity_is_worse(kind: str) -> None:
    assert 0 < distance(f"{kind}-1") < distance(f"{kind}-3") < distance(f"{kind}-5")


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_batches_are_corrupted_before_they_are_normalised(name: str) -> None:
    first, again = torch.cat(batches(name)), torch.cat(batches(name))
    assert torch.equal(first, again)
    grey_levels = (first * STD[:, None, None] + MEAN[:, None, None]) * 255
    assert torch.allclose(grey_levels, grey_levels.round(), atol=1e-3)
    assert grey_levels.min() > -0.5
    assert grey_levels.max() < 255.5
    assert not torch.allclose(first, torch.cat(batches(None)), atol=0.01)


def test_blurred_batches_hold_the_blurred_pixels() -> None:
    blurred = (gaussian_blur(PIXELS.float() / 255, 0.7) * 255).round().to(torch.uint8)
    assert torch.equal(torch.cat(batches("gaussian_blur-3")), normalise(blurred, MEAN, STD))


def test_noise_follows_the_seed_alone() -> None:
    state = torch.get_rng_state()
    one, other = (batches("gaussian_noise-3", seed=seed)[0] for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    small = [batches("gaussian_noise-3", rank=rank, world_size=2)[0] for rank in (0, 1)]
    assert torch.equal(torch.cat(small), one)  # two processes see what one sees


def test_noise_is_that_of_the_image_whatever_the_batch() -> None:
    whole = torch.cat(batches("gaussian_noise-3"))
    assert torch.equal(torch.cat(batches("gaussian_noise-3", batch_size=1)), whole)
    places = torch.tensor([5, 2])
    part = Batches(
        MemoryImages(PIXELS, torch.arange(6)).subset(places),
        batch_size=2,
        shuffle=False,
        corruption="gaussian_noise-3",
        places_N=places,
        mean_C=MEAN,
        std_C=STD,
    )
    assert torch.equal(next(part.epoch(0))[0], whole[places])
    noise = whole - torch.cat(batches(None))
    assert len({tuple(image.flatten().tolist()) for image in noise}) == 6  # each has its own


def test_a_place_for_each_image_is_asked_for() -> None:
    with pytest.raises(InputError, match="one place for each of the 6 images"):
        batches(None, places_N=torch.arange(5))


def test_unknown_corruption_is_refused() -> None:
    with pytest.raises(InputError, match=r"no corruption 'fog-1'; pass one of gaussian_noise-1"):
        batches("fog-1")
