"""On a GPU: the same numbers as on the CPU.

These tests are skipped where there is no CUDA device. They are apart from the others so that a
machine with a GPU can run them alone: `pytest tests/cuda`.
"""

import pytest
import torch
from tests.helpers.cuda_nets import (
    CLASSES,
    GPU,
    SPECS,
    batch,
    full_precision,
    make_model,
    objective,
)
from torch import nn

from selfexplain import class_maps
from selfexplain.data import Augmentation, Batches, MemoryImages
from selfexplain.explanations import KINDS
from selfexplain.hypergradients import Level, hypergradient
from selfexplain.lease import DARTS, SANAS, ArchitectureSearch, LeaSE, LeaSEOptions
from selfexplain.spaces import build_supernet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DRAWS_ON_DEVICE = {"cgc", "saliency_guided"}
"""Objectives whose random numbers are the device's, and so differ from those of the CPU."""


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_those_of_the_cpu(kind: str) -> None:
    torch.manual_seed(0)
    model = make_model().eval()
    x_BCHW, _, _ = batch(torch.device("cpu"))
    expected = class_maps(model, x_BCHW, kind=kind)
    random_state = torch.cuda.get_rng_state()
    with full_precision():
        found = class_maps(model.to(GPU), x_BCHW.to(GPU), kind=kind)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(torch.cuda.get_rng_state(), random_state)


@pytest.mark.parametrize("spec", SPECS)
def test_an_objective_steps_as_on_the_cpu(spec: str) -> None:
    """Two steps in full precision."""
    losses = {}
    for device in (torch.device("cpu"), GPU):
        made = objective(spec).to(device).train()
        optimizer = torch.optim.SGD(made.parameters(), lr=0.01)
        torch.manual_seed(0)
        losses[device.type] = []
        for step in range(2):
            x_BCHW, y_B, index_B = batch(device, step)
            with full_precision():
                out = made(x_BCHW, y_B, *([index_B] if made.wants_indices else []))
                optimizer.zero_grad()
                out["loss"].backward()
            optimizer.step()
            assert out["loss"].device.type == device.type
            losses[device.type].append(float(out["loss"].detach()))
    if spec in DRAWS_ON_DEVICE:
        assert all(torch.isfinite(torch.tensor(losses["cuda"])))
    else:
        assert losses["cuda"] == pytest.approx(losses["cpu"], rel=2e-3)


def test_batches_are_those_of_the_cpu() -> None:
    images = MemoryImages(
        torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8), torch.arange(64) % 4
    )
    half_C = torch.full((3,), 0.5)
    walked = [
        list(
            Batches(
                images,
                batch_size=16,
                device=device,
                augmentation=Augmentation(crop_padding=1, cutout=2),
                mean_C=half_C,
                std_C=half_C,
            ).indexed_epoch(3)
        )
        for device in ("cpu", "cuda")
    ]
    for on_cpu, on_gpu in zip(*walked, strict=True):
        for a, b in zip(on_cpu, on_gpu, strict=True):
            torch.testing.assert_close(a, b.cpu(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["exact", "finite_difference", "one_sided", "inner_product"])
def test_hypergradients_are_those_of_the_cpu(mode: str) -> None:
    torch.manual_seed(0)
    start = {name: torch.randn(4, dtype=torch.float64) for name in ("a", "w", "v")}
    matrix = torch.randn(4, 4, dtype=torch.float64)
    found = []
    for device in ("cpu", "cuda"):
        m = matrix.to(device)
        levels = [
            Level("w", lambda v, m=m: ((m @ v["w"] - v["a"]).tanh() ** 2).sum(), lr=0.1),
            Level("v", lambda v, m=m: ((m @ v["v"] + v["w"] * v["a"]).sin()).sum(), lr=0.2),
        ]
        gradient = hypergradient(
            levels,
            lambda v: (v["v"] ** 2).sum() + (v["w"] * v["a"]).sum(),
            {name: value.to(device) for name, value in start.items()},
            "a",
            mode=mode,
        )
        found.append(gradient.cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-8)


def searches(device: torch.device) -> dict[str, ArchitectureSearch]:
    def supernet() -> nn.Module:
        torch.manual_seed(0)
        net = build_supernet(
            "nasbench201", num_classes=CLASSES, in_channels=1, image_size=8, channels=4, cells=1
        )
        return net.to(device)

    def lease(**options: object) -> ArchitectureSearch:
        explainer, audience = supernet(), make_model().to(device)
        return LeaSE(explainer, audience, options=LeaSEOptions(**options))

    return {
        "darts2": DARTS(supernet(), order=2),
        "sanas": SANAS(supernet()),
        "lease": lease(),
        "lease exact": lease(mode="exact"),
        "lease saliency": lease(control="saliency"),
        "lease shuffled": lease(control="shuffled_delta"),
    }


def test_search_steps_are_those_of_the_cpu() -> None:
    steps = {}
    for device in (torch.device("cpu"), GPU):
        steps[device.type] = {}
        for name, search in searches(device).items():
            with full_precision():
                search.step(batch(device, 0)[:2], batch(device, 1)[:2])
                metrics = search.step(batch(device, 2)[:2], batch(device, 3)[:2])
            steps[device.type][name] = metrics
    for name, metrics in steps["cpu"].items():
        assert steps["cuda"][name] == pytest.approx(metrics, rel=1e-2, abs=1e-4), name
