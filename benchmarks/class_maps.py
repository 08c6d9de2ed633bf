"""Maps of all K classes: ours in one call, captum's looped over the classes.

Two of our times are given: a whole call, and the share of it that a training step pays, which has
made its forward pass in any case.
"""

import torch
from captum.attr import LayerGradCam
from torch import Tensor

from selfexplain.explanations import capture, class_maps, find_explained_layer, maps_of_forward
from selfexplain.models import build_model
from selfexplain.training.cost import interleaved_ratios


def run(device: torch.device) -> list[dict[str, object]]:
    """ResNet-18, 16 images of 32x32, K = 10 and 100."""
    return [_one(classes, device) for classes in (10, 100)]


def _one(classes: int, device: torch.device) -> dict[str, object]:
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=classes, in_channels=3).to(device).eval()
    x_BCHW = torch.randn(16, 3, 32, 32, device=device)
    captum = LayerGradCam(model, model.get_submodule("stages"))

    def looped() -> Tensor:
        # Detached one by one, or the graphs of all K forward passes would pile up.
        maps = [captum.attribute(x_BCHW, target=k).detach() for k in range(classes)]
        return torch.cat(maps, dim=1)

    layer = find_explained_layer(model, x_BCHW, kind="cam")
    with capture(model, layer) as seen:
        logits_BK = model(x_BCHW)

    functions = {
        "ours": lambda: class_maps(model, x_BCHW, kind="cam"),
        "ours, forward pass not counted": lambda: maps_of_forward(seen, logits_BK, kind="cam"),
        "captum": looped,
    }
    ours, theirs = class_maps(model, x_BCHW, kind="grad_cam"), looped()
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    measured = interleaved_ratios(functions, "captum", rounds=5)
    return {
        "benchmark": f"class maps, K = {classes}",
        "captum_seconds": measured["captum"][0],
        **{f"captum / {name}": 1 / measured[name][1] for name in functions if name != "captum"},
        "to reach": "captum / ours >= 20" if classes == 10 else "captum / ours >= 200",
    }
