"""Contrastive Grad-CAM consistency against loops over images, and views against grid_sample."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.relatives_nets import (
    assert_differences_agree,
    batch,
    flat_net,
    own_grad_cam,
    pooled_net,
)
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.objectives import ContrastiveGradCam
from selfexplain.objectives.cgc import View, random_view

X, Y = batch()


def view_of(objective: ContrastiveGradCam) -> View:
    """The view of the objective's next step."""
    generator = objective.random.generator("cpu")
    return random_view(len(X), generator, objective.min_area, objective.mirror)


def sampled(view: View, b: int, image_CHW: Tensor) -> Tensor:
    """The view's part of image b, by PyTorch's own sampler."""
    height, width = image_CHW.shape[1:]
    across = view.left_B[b] + view.width_B[b] * (torch.arange(width).double() + 0.5) / width
    down = view.top_B[b] + view.height_B[b] * (torch.arange(height).double() + 0.5) / height
    if view.mirrored_B[b]:
        across = across.flip(0)
    grid_HW2 = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1) * 2 - 1
    return F.grid_sample(
        image_CHW[None],
        grid_HW2[None].to(image_CHW.dtype),
        padding_mode="border",
        align_corners=False,
    )[0]


def test_views_equal_grid_sample() -> None:
    drawn = random_view(40, torch.Generator().manual_seed(0), min_area=0.1, mirror=True)
    box = (drawn.top_B, drawn.left_B, drawn.height_B, drawn.width_B)
    view = View(*(side_B.double() for side_B in box), drawn.mirrored_B)
    images = torch.randn(40, 2, 7, 9, dtype=torch.float64)
    ours = view.of(images, (7, 9))
    for b in range(40):
        torch.testing.assert_close(ours[b], sampled(view, b, images[b]))


def test_views_are_as_large_as_said() -> None:
    view = random_view(4000, torch.Generator().manual_seed(0), min_area=0.2, mirror=True)
    area, ratio = view.height_B * view.width_B, view.width_B / view.height_B
    assert 0.75 - 1e-5 <= ratio.min() < 0.76
    assert 1.32 < ratio.max() <= 4 / 3 + 1e-5
    assert 0.2 - 1e-5 <= area.min() < 0.21
    assert area.max() > 0.95
    for low_B, size_B in ((view.top_B, view.height_B), (view.left_B, view.width_B)):
        assert low_B.min() >= 0
        assert (low_B + size_B).max() <= 1 + 1e-6
    assert view.mirrored_B.float().mean() == pytest.approx(0.5, abs=0.03)
    assert not random_view(50, torch.Generator(), 0.2, mirror=False).mirrored_B.any()


def loop_loss(objective: ContrastiveGradCam, layer: str) -> Tensor:
    """The loss image by image, pair by pair."""
    view, model = view_of(objective), objective.model
    views = [sampled(view, b, x) for b, x in enumerate(X)]
    expected, found, classified = [], [], torch.zeros((), dtype=torch.float64)
    for b, (x, x_view, y) in enumerate(zip(X, views, Y.tolist(), strict=True)):
        whole = own_grad_cam(model, layer, x[None], y).relu()
        expected.append(sampled(view, b, whole[None])[0])
        found.append(own_grad_cam(model, layer, x_view[None], y).relu())
        for image in (x, x_view):
            classified = classified - model(image[None])[0].log_softmax(0)[y] / (2 * len(X))

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        cosine = (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12)
        return (cosine / objective.temperature).exp()

    contrast = torch.zeros((), dtype=torch.float64)
    for i in range(len(X)):
        own = similarity(found[i], expected[i])
        others = [similarity(found[i], found[j]) for j in range(len(X)) if j != i]
        contrast = contrast - (own / (own + sum(others))).log() / len(X)
    return classified + objective.weight * contrast


SETTINGS = [(pooled_net, None), (pooled_net, "early"), (flat_net, None), (flat_net, "early")]


@pytest.mark.parametrize(("make", "layer"), SETTINGS)
def test_loss_by_definition(make, layer: str | None) -> None:
    objective = ContrastiveGradCam(make(), weight=0.8, temperature=0.3, layer=layer).eval()
    expected = loop_loss(objective, layer or "late")
    torch.testing.assert_close(objective(X, Y)["loss"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("make", "layer"), SETTINGS)
def test_gradient_of_the_loss_by_differences(make, layer: str | None) -> None:
    objective = ContrastiveGradCam(make(), weight=3.0, layer=layer).eval()
    out = objective(X, Y)
    assert out["contrast"] > 0.01
    out["loss"].backward()
    assert_differences_agree(lambda: objective(X, Y)["loss"], objective.model)


def test_each_training_step_has_another_view_and_validation_the_same() -> None:
    objective = ContrastiveGradCam(pooled_net())
    first = view_of(objective)
    objective(X, Y)
    assert not torch.equal(view_of(objective).top_B, first.top_B)
    objective.eval()
    with torch.no_grad():
        assert objective(X, Y)["loss"] == objective(X, Y)["loss"]


def test_layers_and_kinds_that_cannot_be_explained_are_named() -> None:
    for options, message in {
        ("layer", "lat"): "such as 'late'",
        ("layer", "head"): "no spatial positions",
        ("kind", "cam"): "pass kind='grad_cam'",
        ("kind", "cams"): "kind is 'cams'; pass one of",
        ("temperature", 0.0): "temperature is 0",
        ("min_area", 2.0): "min_area is 2",
    }.items():
        with pytest.raises(InputError, match=message):
            ContrastiveGradCam(flat_net(), **{options[0]: options[1]})(X, Y)
