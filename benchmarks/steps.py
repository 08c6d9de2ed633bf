"""A training step of Introspective Learning against a standard one: ResNet-18, K = 100.

One row is the check, in each step, that the head is what it was found to be.
"""

import torch
from lightning_fabric import Fabric

from selfexplain.experiments.objectives import build_objective
from selfexplain.explanations.maps import CheckedLayers
from selfexplain.introspection import Introspective
from selfexplain.models import build_model
from selfexplain.objectives import Objective, ObjectiveContext
from selfexplain.objectives.options import ObjectiveOptions
from selfexplain.training.cost import interleaved_cost

SPECS = {
    "standard": 1.0,
    "introspective:kind=cam": 1.05,
    "introspective:kind=feature_x_gradient,similarity=cosine": 1.10,
}
"""Objective -> most that its step may cost."""
CHECKED = "introspective:kind=cam"


def objective(spec: str) -> Objective:
    """An objective around a ResNet-18 of 100 classes."""
    torch.manual_seed(0)
    context = ObjectiveContext(
        num_classes=100, image_shape=(3, 32, 32), num_images=128, make_model=_model
    )
    return build_objective(spec, _model(), ObjectiveOptions(), context)


def _model() -> torch.nn.Module:
    model = build_model("resnet18", num_classes=100, in_channels=3)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def batch(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """128 images on a GPU, 32 on a CPU, where a step of 128 takes many seconds."""
    count = 128 if device.type == "cuda" else 32
    x_BCHW = torch.randn(count, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    index_B = torch.arange(count, device=device)
    return x_BCHW.to(device), index_B % 100, index_B


def run(device: torch.device) -> list[dict[str, object]]:
    """Ratio of the median step, interleaved: as written, and on a GPU recorded, too."""
    if device.type != "cuda":
        return [*_rows(device), _check(device)]
    return [*_rows(device), _check(device), *_rows(device, cuda_graph=True)]


def _check(device: torch.device) -> dict[str, object]:
    """What it costs to check in each step that the logits are those of the pooled feature map."""
    objectives = {name: objective(CHECKED) for name in ("checked", "unchecked")}
    unchecked = objectives["unchecked"]
    assert isinstance(unchecked, Introspective)
    unchecked._layers = _Unchecked()  # noqa: SLF001
    costs = interleaved_cost(
        objectives,
        "unchecked",
        batch(device),
        fabric=_fabric(device),
        rounds=40,
        most_seconds=300,
    )
    return {
        "benchmark": f"check of the head in a step, {CHECKED}",
        "step_seconds": costs["checked"].step_seconds,
        "ratio": costs["checked"].ratio,
        "to reach": "ratio <= 1.02",
    }


class _Unchecked(CheckedLayers):
    def hold(self, *_: object) -> bool:
        return True


def _fabric(device: torch.device) -> Fabric:
    on_gpu = device.type == "cuda"
    return Fabric(
        accelerator=device.type, devices=1, precision="bf16-mixed" if on_gpu else "32-true"
    )


def _rows(device: torch.device, *, cuda_graph: bool = False) -> list[dict[str, object]]:
    costs = interleaved_cost(
        {spec: objective(spec) for spec in SPECS},
        "standard",
        batch(device),
        fabric=_fabric(device),
        cuda_graph=cuda_graph,
        rounds=25,
        most_seconds=300,
    )
    how = "recorded step" if cuda_graph else "step"
    return [
        {
            "benchmark": f"{how}, {spec}",
            "step_seconds": costs[spec].step_seconds,
            "ratio": costs[spec].ratio,
            "to reach": f"ratio <= {most:.2f}",
        }
        for spec, most in SPECS.items()
        if spec != "standard"
    ]
