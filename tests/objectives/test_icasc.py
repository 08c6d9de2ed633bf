"""Attention separability and consistency against loops over images, classes and places."""

import math

import pytest
import torch
from tests.helpers.relatives_nets import (
    assert_differences_agree,
    batch,
    flat_net,
    own_grad_cam,
    pooled_net,
)
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.objectives import AttentionSeparability
from selfexplain.objectives.icasc import EPSILON, outside, overlap, soft_mask

X, Y = batch()


def enlarged(map_HW: Tensor) -> Tensor:
    """A 4 x 4 map, bilinearly at 8 x 8 places."""
    large = torch.zeros(8, 8, dtype=map_HW.dtype)
    for i in range(8):
        for j in range(8):
            h, w = (min(max((n + 0.5) / 2 - 0.5, 0), 3) for n in (i, j))
            for a in (math.floor(h), math.floor(h) + 1):
                for b in (math.floor(w), math.floor(w) + 1):
                    share = max(0, 1 - abs(h - a)) * max(0, 1 - abs(w - b))
                    large[i, j] += share * map_HW[min(a, 3), min(b, 3)]
    return large


class Ratio:
    """A sum over another, gathered place by place and image by image."""

    def __init__(self) -> None:
        self.above = self.below = torch.zeros((), dtype=torch.float64)

    def add_overlap(self, true_HW: Tensor, other_HW: Tensor, mask_HW: Tensor) -> None:
        for t, c, m in zip(true_HW.flatten(), other_HW.flatten(), mask_HW.flatten(), strict=True):
            self.above = self.above + 2 * min(t, c) * m
            self.below = self.below + t + c

    def add_inside(self, map_HW: Tensor, mask_HW: Tensor) -> None:
        for a, m in zip(map_HW.flatten(), mask_HW.flatten(), strict=True):
            self.above = self.above + a * m
            self.below = self.below + a

    def value(self) -> Tensor:
        return self.above / (self.below + EPSILON)


def loop_loss(objective: AttentionSeparability) -> Tensor:
    """The loss from sums over images and places, its maps by autograd alone."""
    model, cross_entropy = objective.model, torch.zeros((), dtype=torch.float64)
    at_last, at_inner, inside = Ratio(), Ratio(), Ratio()
    for x, y in zip(X, Y.tolist(), strict=True):
        logits = model(x[None])[0]
        order = logits.argsort(descending=True).tolist()
        confusing = order[1] if order[0] == y else order[0]
        last, inner = (
            [own_grad_cam(model, layer, x[None], k).relu() for k in (y, confusing)]
            for layer in ("late", "early")
        )
        height = last[0] / (last[0].max() + EPSILON)
        mask = 1 / (1 + (-objective.omega * (height - objective.sigma)).exp())
        large = enlarged(mask)
        at_last.add_overlap(*last, mask)
        at_inner.add_overlap(*inner, large)
        inside.add_inside(inner[0], large)
        cross_entropy = cross_entropy - logits.log_softmax(0)[y] / len(X)
    separability = at_last.value() + at_inner.value()
    consistency = objective.theta - inside.value()
    weighted = objective.separability * separability + objective.consistency * consistency
    return cross_entropy + weighted


@pytest.mark.parametrize("make", [pooled_net, flat_net])
def test_loss_by_definition(make) -> None:
    objective = AttentionSeparability(make(), separability=0.7, consistency=1.3, omega=20.0)
    out = objective(X, Y)
    torch.testing.assert_close(out["loss"], loop_loss(objective))
    assert out["separability"] > 0.05


@pytest.mark.parametrize("make", [pooled_net, flat_net])
def test_gradient_of_the_loss_by_differences(make) -> None:
    options = {"separability": 3.0, "consistency": 2.0, "omega": 5.0}
    objective = AttentionSeparability(make(), **options)
    objective(X, Y)["loss"].backward()
    assert_differences_agree(lambda: objective(X, Y)["loss"], objective.model)


def test_layers_by_name_are_the_default_ones() -> None:
    named = AttentionSeparability(pooled_net(), layer="late", inner_layer="early")
    assert named(X, Y)["loss"] == AttentionSeparability(pooled_net())(X, Y)["loss"]


def test_training_pulls_the_attention_of_two_classes_apart() -> None:
    objective = AttentionSeparability(pooled_net(), separability=3.0, consistency=0.0)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    before = objective(X, Y)["separability"]
    for _ in range(40):
        optimizer.zero_grad()
        objective(X, Y)["loss"].backward()
        optimizer.step()
    assert objective(X, Y)["separability"] < 0.5 * before


def test_images_without_attention_give_finite_losses_and_gradients() -> None:
    zero = torch.zeros(2, 3, 3, requires_grad=True)
    overlap(zero, zero, soft_mask(zero, 0.55, 100.0)).backward()
    assert zero.grad.isfinite().all()


def test_an_image_whose_attention_all_but_vanishes_has_a_bounded_gradient() -> None:
    """Beside images that have some; scaled to nothing, it must not weigh more than they do."""
    generator = torch.Generator().manual_seed(0)
    true_BHW = torch.rand(4, 3, 3, generator=generator)
    other_BHW = torch.rand(4, 3, 3, generator=generator)
    scale_B11 = torch.tensor([1.0, 1.0, 1.0, 1e-6]).view(4, 1, 1)
    mask_BHW = torch.rand(4, 3, 3, generator=generator)
    for loss in (
        lambda a: overlap(a, other_BHW * scale_B11, mask_BHW),
        lambda a: outside(a, mask_BHW, 0.8),
    ):
        attention = (true_BHW * scale_B11).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(attention), attention)
        assert gradient[3].abs().max() < 2 * gradient[:3].abs().max()


def test_what_cannot_be_used_is_named() -> None:
    for options, message in {
        ("inner_layer", "earl"): "such as 'early'",
        ("layer", "head"): "no spatial positions",
        ("layer", "conv1"): "pass the name of an earlier layer",
        ("sigma", 2.0): "sigma is 2",
        ("theta", -1.0): "theta is -1",
    }.items():
        with pytest.raises(InputError, match=message):
            AttentionSeparability(flat_net(), **{options[0]: options[1]})(X, Y)
    model = flat_net()
    model.head = nn.Linear(80, 1).double()
    with pytest.raises(InputError, match="one class"):
        AttentionSeparability(model)(X, 0 * Y)
