"""Heads, layers by name, token grids, wrappers, and the errors that say what to pass."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.explanations_nets import FunctionalNet, ViT, residual_net
from torch import nn

from selfexplain.errors import InputError
from selfexplain.explanations import (
    capture,
    class_maps,
    find_explained_layer,
    find_pooled_head,
    maps_of_forward,
)
from selfexplain.explanations.layout import TokenGrid, token_grid
from selfexplain.introspection import Introspective

torch.set_num_threads(1)
X = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Fn(nn.Module):
    """A module from a function and its submodules."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize("pool", ["avg_pool2d", "mean", "adaptive", "reshape", "tokens"])
@pytest.mark.parametrize("train", [True, False])
def test_functional_pooling_is_found_and_captured(pool, train):
    model = FunctionalNet(pool, dropout=0.5).train(train)
    head = find_pooled_head(model, X)
    assert (head.name, head.linear, head.layers) == ("head", model.head, ())
    assert (head.source.at, head.source.name) == ("function", "bn2")
    with capture(model, find_explained_layer(model, X)) as seen:
        model(X)
    pooled = model.features(X)
    got = (
        seen.activation
        if pool != "tokens"
        else seen.activation.transpose(1, 2).unflatten(2, (6, 6))
    )
    torch.testing.assert_close(got, pooled)
    assert seen.activation.requires_grad


def test_module_pooling_is_found_with_all_names_of_the_map():
    head = find_pooled_head(residual_net(), X)
    assert (head.name, head.source.at, head.source.name) == ("fc", "output", "layer2")
    assert head.layers == ("layer2.relu", "layer2")


@pytest.mark.parametrize("layer", ["layer2", "layer2.relu", "module.layer2", "_orig_mod.layer2"])
def test_the_pooled_map_by_name_needs_no_backward(layer):
    model = residual_net()
    explained = find_explained_layer(model, X, kind="grad_cam", layer=layer)
    assert explained.head is not None
    torch.testing.assert_close(
        class_maps(model, X, layer=layer), class_maps(model, X), rtol=0, atol=0
    )


def test_pooling_of_channels_last_features():
    model = Fn(
        lambda m, x: m.head(m.conv(x).permute(0, 2, 3, 1).contiguous().mean((1, 2))),
        conv=nn.Conv2d(3, 7, 3),
        head=nn.Linear(7, 5),
    )
    wanted = torch.einsum("kf,bfhw->bkhw", model.head.weight, model.conv(X)).detach()
    torch.testing.assert_close(class_maps(model, X), wanted)


def test_pooling_of_patch_tokens():
    model = ViT(prefix=2, read="mean")
    assert class_maps(model, X).shape == (3, 5, 3, 3)
    torch.testing.assert_close(
        class_maps(model, X).mean((2, 3)), (model(X) - model.head.bias).detach()
    )


def test_model_without_modules_before_the_pool():
    model = Fn(lambda m, x: m.head(F.relu(x - 0.5).mean((2, 3))), head=nn.Linear(3, 5))
    assert find_pooled_head(model, X).source.name == ""
    wanted = torch.einsum("kf,bfhw->bkhw", model.head.weight, F.relu(X - 0.5)).detach()
    torch.testing.assert_close(class_maps(model, X), wanted)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (FunctionalNet("max"), "head 'head' is not the spatial mean"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 5)), "head '2' is not"),
        (
            nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1), nn.Flatten()
            ),
            "convolution '2'",
        ),
        (nn.Sequential(residual_net(), nn.Softmax(1)), "no nn.Linear returns the logits"),
        (ViT(), "head 'head' is not"),
    ],
)
def test_no_pooled_head_names_the_kinds_that_work(model, said):
    for call in (find_pooled_head, class_maps):
        with pytest.raises(InputError, match=said) as error:
            call(model, X)
        for kind in ("grad_cam", "feature_x_gradient", "gradient", "input_x_gradient"):
            assert f"'{kind}'" in str(error.value)


@pytest.mark.parametrize(
    ("tokens", "h", "w", "grid"),
    [
        (197, 224, 224, (1, 14, 14)),
        (201, 224, 224, (5, 14, 14)),
        (16, 12, 20, (1, 3, 5)),
        (17, 12, 20, (2, 3, 5)),
        (60, 12, 20, (0, 6, 10)),
        (7, 12, 20, None),
        (30, 12, 20, None),
    ],
)
def test_token_grid(tokens, h, w, grid):
    assert token_grid(tokens, h, w) == (grid and TokenGrid(*grid))


@pytest.mark.parametrize("prefix", [1, 2])
def test_vision_transformer_default_layer_and_shape(prefix):
    model, x = ViT(prefix=prefix), torch.rand(2, 3, 12, 20)
    explained = find_explained_layer(model, x, kind="grad_cam")
    assert explained.source.name == "blocks.1.norm1"
    for kind in ("grad_cam", "feature_x_gradient"):
        maps = class_maps(model, x, kind=kind)
        assert maps.shape == (2, 5, 3, 5)
        assert maps.abs().sum() > 0
    assert class_maps(model, x, kind="grad_cam", layer="blocks.0").shape == (2, 5, 3, 5)


def test_log_probabilities_still_have_a_default_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 5), nn.Softmax(1))
    assert find_explained_layer(model, X, kind="grad_cam").source.name == "0"


def test_tokens_of_another_image_size_are_refused():
    model = ViT()
    layer = find_explained_layer(model, X, kind="grad_cam")
    with capture(model, layer) as seen:
        logits = model(torch.rand(2, 3, 16, 16))
    with pytest.raises(InputError, match="17 tokens instead of 10"):
        maps_of_forward(seen, logits, kind="grad_cam")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "gradcam"}, "unknown; pass one of cam, grad_cam, feature_x_gradient, gradient"),
        ({"kind": "grad_cam", "layer": "layer2.con1"}, "such as 'layer2.conv1'"),
        ({"kind": "grad_cam", "layer": "unused"}, "not called"),
        ({"kind": "grad_cam", "layer": "fc"}, r"returns \(2, 5\), which has no spatial positions"),
        (
            {"kind": "grad_cam", "layer": "pool"},
            r"returns \(2, 8, 1, 1\), which has no spatial positions",
        ),
        ({"kind": "input_x_gradient", "layer": "layer1"}, "pass layer=None"),
        ({"layer": "layer1"}, "layer 'layer1' is not that feature map"),
        ({"classes": [0, 5]}, r"classes \[5\] .* from 0 to 4"),
        ({"classes": [-1]}, r"classes \[-1\]"),
        ({"classes": []}, "None for all"),
        ({"x_BCHW": X[0]}, r"shape \(3, 12, 12\)"),
        ({"x_BCHW": X[:0]}, "images of shape"),
        ({"x_BCHW": X.int()}, "torch.int32"),
    ],
)
def test_input_errors(options, said):
    model = residual_net()
    model.fc.unused = nn.Conv2d(3, 3, 1)
    options = {"x_BCHW": X, **options}
    if options.get("layer") == "unused":
        options["layer"] = "fc.unused"
    with pytest.raises(InputError, match=said):
        class_maps(model, **options)


@pytest.mark.parametrize("kind", ["cam", "gradient"])
@pytest.mark.parametrize(
    ("output", "said"),
    [
        (lambda m, x: (m.a(x),), "a tuple"),
        (lambda m, x: m.a(x), r"\(\d, 5, 12, 12\)"),
        (lambda m, x: m.a(x).mean((2, 3)).argmax(1, keepdim=True), "torch.int64"),
        (lambda m, x: m.a(x).mean((0, 2, 3))[None, None].flatten(1), r"\(1, 5\)"),
    ],
)
def test_outputs_that_are_no_logits(kind, output, said):
    with pytest.raises(InputError, match=said):
        class_maps(Fn(output, a=nn.Conv2d(3, 5, 1)), X, kind=kind)


def test_layer_without_influence_on_the_logits():
    model = Fn(
        lambda m, x: (m.a(x), m.b(x).mean((2, 3)))[1], a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(3, 5, 1)
    )
    with pytest.raises(InputError, match="do not depend on the explained layer"):
        class_maps(model, X, kind="gradient", layer="a")


def test_no_layer_with_space_at_all():
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 5))
    with pytest.raises(
        InputError, match="no layer on which the logits depend returns a feature map"
    ):
        class_maps(model, X, kind="grad_cam")


def test_capture_without_a_forward_and_with_the_wrong_kind():
    model = residual_net()
    with capture(model, find_explained_layer(model, X)) as seen:
        pass
    with pytest.raises(InputError, match="capture saw no forward"):
        maps_of_forward(seen, torch.zeros(3, 5))
    early = find_explained_layer(model, X, kind="grad_cam", layer="layer1")
    with capture(model, early) as seen:
        logits = model(X)
    with pytest.raises(InputError, match="found for another kind"):
        maps_of_forward(seen, logits, kind="cam")
    with torch.no_grad(), capture(model, early) as seen:
        logits = model(X)
    with pytest.raises(InputError, match="with gradients enabled"):
        maps_of_forward(seen, logits, kind="grad_cam")


def test_layer_found_once_serves_copies_and_a_new_head():
    model = FunctionalNet().eval()
    layer = find_explained_layer(model, X)
    twin = copy.deepcopy(model)
    class_maps(model, X)
    for m in (model, twin):
        m.head = nn.Linear(7, 4)
        with capture(m, layer) as seen:
            logits = m(X)
        maps = maps_of_forward(seen, logits)
        torch.testing.assert_close(maps.mean((2, 3)), (logits - m.head.bias).detach())
        torch.testing.assert_close(class_maps(m, X), maps)


def test_a_changed_model_is_looked_at_again():
    model = residual_net().eval()
    class_maps(model, X)
    model.dropout = nn.Tanh()
    with pytest.raises(InputError, match="not the spatial mean"):
        class_maps(model, X)


@pytest.mark.parametrize("colour", [0.0, 0.7])
def test_images_of_one_colour_do_not_decide_what_the_head_is(colour):
    """Of a constant feature map the maximum is the mean; the first batch decides for all."""

    def net(pool):
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, 5))

    constant = torch.full((2, 3, 12, 12), colour)
    highest = net(nn.AdaptiveMaxPool2d(1))
    state = torch.get_rng_state()
    for images in (constant[:1], X):
        with pytest.raises(InputError, match="is not the spatial mean of a feature map"):
            class_maps(highest, images)
    objective = Introspective(highest)
    with pytest.raises(InputError, match="is not the spatial mean of a feature map"):
        objective(constant, torch.tensor([0, 1]))
    assert torch.equal(torch.get_rng_state(), state)

    mean, fresh = net(nn.AdaptiveAvgPool2d(1)), net(nn.AdaptiveAvgPool2d(1))
    fresh.load_state_dict(mean.state_dict())
    class_maps(mean, constant)
    torch.testing.assert_close(class_maps(mean, X), class_maps(fresh, X))


def test_looking_for_the_layer_does_not_keep_models_alive():
    import gc
    import weakref

    model = residual_net()
    class_maps(model, X)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
