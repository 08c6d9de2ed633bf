"""Maps equal captum's, the plain twins', and each other where theory says so."""

import captum.attr as ca
import pytest
import torch
from tests.helpers.explanations_nets import FunctionalNet, ViT, residual_net, warmed
from tests.oracles.explanations import reference_class_maps
from torch import nn

from selfexplain.explanations import (
    KINDS,
    cam,
    capture,
    class_maps,
    find_explained_layer,
    maps_of_forward,
)

torch.set_num_threads(1)


@pytest.fixture(params=["functional", "residual"])
def net(request):
    """Model, its halves around the pooled map, its halves around an early layer, that layer."""
    torch.manual_seed(0)
    if request.param == "functional":
        m = warmed(FunctionalNet())
        return m, (m.features, m.rest), (m.early, lambda a: m.rest(m.after_early(a))), "conv2"
    m = warmed(residual_net())
    return m, (m[:2], m[2:]), (m[:1], m[1:]), "layer1"


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(3, 3, 12, 12, dtype=torch.float64)


def close(a, b, rtol=1e-9):
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * b.abs().max().item())


def captum_maps(model, x, kind, layer):
    attribution = {
        "grad_cam": lambda: ca.LayerGradCam(model, layer),
        "feature_x_gradient": lambda: ca.LayerGradientXActivation(model, layer),
        "gradient": lambda: ca.Saliency(model),
        "input_x_gradient": lambda: ca.InputXGradient(model),
    }[kind]()
    options = {"grad_cam": {"relu_attributions": False}, "gradient": {"abs": False}}.get(kind, {})
    maps = [attribution.attribute(x, target=k, **options).sum(1) for k in range(5)]
    return torch.stack(maps, 1).detach()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_equal_to_captum_at_the_default_layer(net, x, kind):
    model, (features, rest), _, _ = net
    parts = nn.Sequential(Call(features), Call(rest))  # so that captum can hook the pooled map
    close(class_maps(model, x, kind=kind), captum_maps(parts, x, kind, parts[0]))


@pytest.mark.parametrize("kind", ["grad_cam", "feature_x_gradient"])
def test_equal_to_captum_at_an_early_layer(net, x, kind):
    model, _, _, name = net
    wanted = captum_maps(model, x, kind, model.get_submodule(name))
    close(class_maps(model, x, kind=kind, layer=name), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_plain_twin(net, x, kind):
    model, halves, _, _ = net
    of_input = kind in ("gradient", "input_x_gradient")
    features, rest = (lambda x: x, model) if of_input else halves
    weight = model.get_parameter("head.weight" if hasattr(model, "head") else "fc.weight")
    close(
        class_maps(model, x, kind=kind),
        reference_class_maps(features, rest, x, kind=kind, weight_KF=weight),
    )


@pytest.mark.parametrize("kind", KINDS[1:4])
def test_early_layer_equals_the_plain_twin(net, x, kind):
    model, _, (features, rest), name = net
    wanted = reference_class_maps(features, rest, x, kind=kind)
    close(class_maps(model, x, kind=kind, layer=name), wanted)


def test_cam_is_grad_cam_times_positions_and_its_mean_is_the_logit(net, x):
    model, _, _, _ = net
    maps = class_maps(model, x)
    assert maps.shape == (3, 5, 6, 6)
    assert maps.min() < 0 < maps.max()
    close(maps, 36 * class_maps(model, x, kind="grad_cam"))
    bias = (model.head if hasattr(model, "head") else model.fc).bias
    close(maps.mean((2, 3)), (model(x) - bias).detach())


@pytest.mark.parametrize("kind", ["grad_cam", "feature_x_gradient"])
def test_closed_form_equals_autograd(net, x, kind):
    model, _, _, _ = net
    with capture(model, find_explained_layer(model, x, kind=kind)) as seen:
        logits = model(x)
    fast = maps_of_forward(seen, logits, kind=kind)
    for k in range(5):
        (g,) = torch.autograd.grad(logits[:, k].sum(), seen.activation, retain_graph=True)
        g = g.mean((2, 3), keepdim=True) if kind == "grad_cam" else g
        close(fast[:, k], (g * seen.activation).sum(1).detach())


@pytest.mark.parametrize(
    ("kind", "early"), [(kind, early) for early in (False, True) for kind in KINDS[early:4]]
)
def test_create_graph_agrees_with_finite_differences(net, x, kind, early):
    model, _, _, name = net
    layer = name if early else None
    parameters = [p for n, p in model.named_parameters() if n.endswith(("weight", "bias"))]

    def energy(create_graph):
        maps = class_maps(model, x, kind=kind, layer=layer, create_graph=create_graph)
        return maps.square().sum()

    first, last = parameters[0], parameters[-2]  # a convolution, and the weight of the head
    grads = torch.autograd.grad(energy(True), (first, last), allow_unused=True)
    for p, grad in zip((first, last), grads, strict=True):
        direction = torch.randn_like(p)
        with torch.no_grad():
            p.add_(direction, alpha=1e-7)
            up = energy(False)
            p.add_(direction, alpha=-2e-7)
            down = energy(False)
            p.add_(direction, alpha=1e-7)
        slope = 0 if grad is None else (grad * direction).sum()
        assert slope == pytest.approx(((up - down) / 2e-7).item(), rel=1e-4, abs=1e-7)
    assert grads[1] is not None
    assert grads[1].abs().max() > 0


def test_create_graph_reaches_the_images_in_the_users_graph(net, x):
    model, _, _, _ = net
    scale = torch.ones((), dtype=x.dtype, requires_grad=True)
    class_maps(model, scale * x, create_graph=True).square().sum().backward()
    assert scale.grad.abs() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_classes_selects_and_orders(net, x, kind):
    model, _, _, _ = net
    close(
        class_maps(model, x, kind=kind, classes=(4, 1)), class_maps(model, x, kind=kind)[:, [4, 1]]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_training_mode_gives_gradients_of_the_sum_over_the_batch(x, kind):
    torch.manual_seed(0)
    model = warmed(FunctionalNet()).train()
    of_input = kind in ("gradient", "input_x_gradient")
    leaf = x.clone().requires_grad_()
    a = leaf if of_input else model.features(leaf)
    g = torch.autograd.grad(
        (model(leaf) if of_input else model.rest(a))[:, 2].sum(), a, retain_graph=True
    )[0]
    a = torch.ones_like(a) if kind == "gradient" else a
    wanted = (a * g).sum(1).detach() * (36 if kind == "cam" else 1)
    close(class_maps(model, x, kind=kind, classes=[2])[:, 0], wanted)


def test_layer_that_is_changed_in_place_is_seen_as_it_was(x):
    torch.manual_seed(0)
    model = warmed(residual_net())
    wanted = captum_maps(model, x, "grad_cam", model.layer2.bn1)
    close(class_maps(model, x, kind="grad_cam", layer="layer2.bn1"), wanted)


def test_one_forward_serves_maps_and_loss(net, x):
    model, _, _, name = net
    model.train()
    layer = find_explained_layer(model, x, kind="grad_cam", layer=name)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    with capture(model, layer) as seen:
        logits = model(x)
    maps = maps_of_forward(seen, logits, kind="grad_cam", create_graph=True)
    (logits.square().sum() + maps.square().sum()).backward()
    handle.remove()
    assert len(calls) == 1
    assert all(p.grad is not None for p in model.parameters())


def test_token_layers_agree_with_gradients_of_the_tokens():
    torch.manual_seed(0)
    model, x = ViT(prefix=2).double(), torch.randn(2, 3, 12, 20, dtype=torch.float64)
    kept = {}
    hook = model.blocks[1].norm1.register_forward_hook(lambda m, i, o: kept.update(tokens=o))
    logits = model(x)
    hook.remove()
    g = torch.autograd.grad(logits[:, 3].sum(), kept["tokens"])[0]
    wanted = (g * kept["tokens"]).sum(2)[:, 2:].reshape(2, 3, 5).detach()
    close(class_maps(model, x, kind="feature_x_gradient", classes=[3])[:, 0], wanted)


def test_cam_function_is_the_sum_over_features():
    a, w = torch.randn(2, 4, 3, 5), torch.randn(6, 4)
    torch.testing.assert_close(cam(a, w), torch.einsum("kf,bfhw->bkhw", w, a))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)
