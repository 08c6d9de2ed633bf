"""TrivialAugment and RandAugment: every operation against Pillow's."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from selfexplain.data.rand_augment import (
    OPERATIONS,
    DrawnOperations,
    apply_operations,
    draw_operations,
)
from selfexplain.errors import InputError

NUMBER = {name: number for number, name in enumerate(OPERATIONS)}


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Smooth colour images with some noise, of a side that is not even."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (33, 40), mode="bicubic", align_corners=False)
    noisy = smooth + 0.05 * torch.randn(smooth.shape, generator=generator)
    return (noisy * 200 + 20).clamp(0, 255).to(torch.uint8)


def ours(images: Tensor, name: str, amount: float) -> Tensor:
    shape = len(images), 1
    kinds = torch.full(shape, NUMBER[name])
    drawn = DrawnOperations(kinds_BN=kinds, amounts_BN=torch.full(shape, amount))
    return apply_operations(images, drawn)


def pillows(images: Tensor, operation: Callable[[Image.Image], Image.Image]) -> Tensor:
    rows = [
        np.asarray(operation(Image.fromarray(image.permute(1, 2, 0).numpy()))) for image in images
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def affine(*entries: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, entries)


@pytest.mark.parametrize("amount", [-0.9, -0.31, 0.17, 0.99])
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y"])
def test_moves_are_pillows(photographs: Tensor, name: str, amount: float) -> None:
    height, width = photographs.shape[2:]
    entries = {
        "shear_x": (1, amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount, 1, 0),
        "translate_x": (1, 0, int(amount * width), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, int(amount * height)),
    }[name]
    differ = ours(photographs, name, amount) != pillows(photographs, affine(*entries))
    assert differ.float().mean() < 0.003  # rounding at the border between two pixels


@pytest.mark.parametrize("degrees", [-135.0, -20.0, 45.0, 77.0])
def test_rotation_is_pillows(photographs: Tensor, degrees: float) -> None:
    expected = pillows(photographs, lambda image: image.rotate(degrees))
    differ = ours(photographs, "rotate", degrees) != expected
    assert differ.float().mean() < 0.003


@pytest.mark.parametrize("amount", [-0.99, -0.4, 0.33, 0.99])
@pytest.mark.parametrize("name", ["brightness", "colour", "contrast", "sharpness"])
def test_blends_are_pillows(photographs: Tensor, name: str, amount: float) -> None:
    enhance = {
        "brightness": ImageEnhance.Brightness,
        "colour": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }[name]
    expected = pillows(photographs, lambda image: enhance(image).enhance(1 + amount))
    difference = (ours(photographs, name, amount).int() - expected.int()).abs()
    # Pillow's shades of grey are cut off in fixed point, which a blend makes at most one step more.
    assert difference.max() <= 2
    assert (difference > 1).float().mean() < 0.01


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_posterize_is_pillows(photographs: Tensor, bits: int) -> None:
    expected = pillows(photographs, lambda image: ImageOps.posterize(image, bits))
    assert torch.equal(ours(photographs, "posterize", 8.0 - bits), expected)


@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5, 1.0])
def test_solarize_is_pillows(photographs: Tensor, amount: float) -> None:
    expected = pillows(photographs, lambda image: ImageOps.solarize(image, 256 * (1 - amount)))
    assert torch.equal(ours(photographs, "solarize", amount), expected)


def test_equalize_is_pillows(photographs: Tensor) -> None:
    flat = torch.full_like(photographs[:1], 90)
    few = photographs[:1] // 128 * 100
    images = torch.cat([photographs, flat, few])
    assert torch.equal(ours(images, "equalize", 0.0), pillows(images, ImageOps.equalize))


def test_autocontrast_is_pillows(photographs: Tensor) -> None:
    images = torch.cat([photographs, torch.full_like(photographs[:1], 90)])
    difference = (
        ours(images, "autocontrast", 0.0).int() - pillows(images, ImageOps.autocontrast).int()
    )
    assert difference.abs().max() <= 1  # a product in float32 for one in float64


def test_each_image_gets_its_own_operation(photographs: Tensor) -> None:
    kinds = torch.tensor([[NUMBER["identity"]], [NUMBER["solarize"]], [NUMBER["posterize"]]])
    drawn = DrawnOperations(kinds_BN=kinds, amounts_BN=torch.tensor([[0.0], [1.0], [6.0]]))
    made = apply_operations(photographs, drawn)
    assert torch.equal(made[0], photographs[0])
    assert torch.equal(made[1], 255 - photographs[1])
    assert made[2].unique().numel() <= 4


def test_what_is_drawn_covers_all_operations_within_their_strengths() -> None:
    drawn = draw_operations("trivial", 4000, torch.Generator().manual_seed(0))
    assert drawn.kinds_BN.unique().numel() == len(OPERATIONS)
    for number, operation in enumerate(OPERATIONS.values()):
        amounts = drawn.amounts_BN[drawn.kinds_BN == number]
        assert amounts.abs().max() == pytest.approx(operation.largest)
        assert bool((amounts < 0).any()) == operation.both_ways


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_images_of_one_pixel_pass(channels: int) -> None:
    images = torch.full((40, channels, 1, 1), 90, dtype=torch.uint8)
    drawn = draw_operations("rand", 40, torch.Generator().manual_seed(0))
    assert apply_operations(images, drawn).shape == images.shape


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InputError, match="pass none, trivial or rand"):
        draw_operations("auto", 1, torch.Generator())  # type: ignore[arg-type]
