"""Maps of each image's own classes, and the layer before the last."""

import pytest
import torch
from tests.helpers.explanations_nets import FunctionalNet, ViT, residual_net, warmed

from selfexplain.errors import InputError
from selfexplain.explanations import (
    KINDS,
    capture,
    class_maps,
    find_earlier_layer,
    find_explained_layer,
    gradient_of_own_class,
    maps_of_own_classes,
)

X = torch.randn(4, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([[0, 4], [3, 1], [2, 2], [1, 0]])


def captured(model, kind, layer=None, x=X):
    with capture(model, find_explained_layer(model, x, kind=kind, layer=layer)) as seen:
        return seen, model(x)


@pytest.mark.parametrize("kind", KINDS)
def test_picks_from_the_maps_of_all_classes(kind: str) -> None:
    model = warmed(residual_net())
    picked = maps_of_own_classes(*captured(model, kind), CLASSES, kind=kind)
    every_BKHW = class_maps(model, X, kind=kind)
    for b in range(len(X)):
        for n in range(2):
            torch.testing.assert_close(picked[b, n], every_BKHW[b, CLASSES[b, n]])


def test_picks_at_an_earlier_layer_too() -> None:
    model = warmed(residual_net())
    picked = maps_of_own_classes(*captured(model, "grad_cam", "layer1"), CLASSES, kind="grad_cam")
    every_BKHW = class_maps(model, X, kind="grad_cam", layer="layer1")
    torch.testing.assert_close(picked[1, 0], every_BKHW[1, 3])


def test_gradient_of_own_class_is_that_of_its_logit() -> None:
    model = warmed(residual_net())
    gradient = gradient_of_own_class(*captured(model, "gradient"), CLASSES[:, 0])
    for b in range(len(X)):
        x = X[b : b + 1].clone().requires_grad_()
        model(x)[0, CLASSES[b, 0]].backward()
        torch.testing.assert_close(gradient[b], x.grad[0])


def test_what_cannot_be_used_is_named() -> None:
    model = warmed(residual_net())
    seen, logits = captured(model, "gradient")
    for classes, message in {
        (0, 1): r"shape \(2,\)",
        ((0,), (1,)): r"shape \(4, N\)",
        ((0,), (1,), (2,), (7,)): "classes from 0 to 7",
    }.items():
        with pytest.raises(InputError, match=message):
            maps_of_own_classes(seen, logits, torch.tensor(classes), kind="gradient")
    with pytest.raises(InputError, match="int64"):
        maps_of_own_classes(seen, logits, CLASSES.double(), kind="gradient")
    with torch.no_grad(), pytest.raises(InputError, match="gradients enabled"):
        gradient_of_own_class(*captured(model, "gradient"), CLASSES[:, 0])


def test_earlier_layer_is_the_last_with_more_positions() -> None:
    for model, last, earlier in (
        (residual_net(), None, "layer1"),
        (residual_net(), "layer2.conv2", "layer1"),
        (FunctionalNet("max"), None, "bn1"),
    ):
        found = find_explained_layer(model.double(), X, kind="grad_cam", layer=last)
        assert find_earlier_layer(model, X, found).source.name == earlier


def test_no_earlier_layer_is_named() -> None:
    model = ViT().double()
    last = find_explained_layer(model, X, kind="grad_cam")
    with pytest.raises(InputError, match="pass the name of an earlier layer"):
        find_earlier_layer(model, X, last)
    images = find_explained_layer(model, X, kind="gradient")
    with pytest.raises(InputError, match="pass the name of an earlier layer"):
        find_earlier_layer(model, X, images)
