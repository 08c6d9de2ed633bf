"""The list of layers: those that class_maps takes and that say something, and no others."""

import pytest
import torch
from tests.helpers.explanations_nets import FunctionalNet, ViT, residual_net
from torch import nn

from selfexplain.errors import InputError
from selfexplain.explanations import KINDS, class_maps, explainable_layers

X = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def flat() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))


def speaks(model: nn.Module, kind: str, layer: str) -> bool:
    """Tried one by one: a map comes back, and the class's score hangs on the layer."""
    try:
        # The gradient is what tells: a map may be zero where a ReLU is, and is small elsewhere.
        probe = kind if kind == "cam" else "gradient"
        return bool(class_maps(model, X, kind=probe, layer=layer).any())
    except InputError:
        return False


@pytest.mark.parametrize("make", [FunctionalNet, residual_net, ViT, flat])
@pytest.mark.parametrize("kind", ["grad_cam", "feature_x_gradient", "gradient"])
def test_listed_are_the_layers_that_can_be_explained(make, kind):
    torch.manual_seed(0)
    model = make().eval()
    listed = explainable_layers(model, X, kind)
    # Attention weights (B, heads, T, T) can be read as a feature map, but are none.
    names = {name for name, _ in model.named_modules() if name and "attn_drop" not in name}
    assert set(listed) == {name for name in names if speaks(model, kind, name)}
    for name in listed:
        assert class_maps(model, X, kind=kind, layer=name).isfinite().all()


def test_cam_lists_the_pooled_feature_map():
    torch.manual_seed(0)
    model = residual_net().eval()
    listed = explainable_layers(model, X, "cam")
    assert listed
    for name in listed:
        maps = class_maps(model, X, layer=name)
        assert torch.equal(maps, class_maps(model, X))
    with pytest.raises(InputError, match="grad_cam"):
        explainable_layers(flat(), X, "cam")


def test_input_x_gradient_has_no_layers():
    assert explainable_layers(flat(), X, "input_x_gradient") == ()


def test_unknown_kinds_are_refused():
    with pytest.raises(InputError, match=KINDS[0]):
        explainable_layers(flat(), X, "camera")


def test_the_model_is_left_as_found():
    model = residual_net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explainable_layers(model, X, "grad_cam")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
