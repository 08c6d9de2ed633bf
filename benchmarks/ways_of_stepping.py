"""Steps on a GPU as written, compiled and recorded: of a training (ResNet-18), and of searches."""

import itertools
from collections.abc import Callable
from functools import partial

import torch
from lightning_fabric import Fabric

from benchmarks import search_steps
from benchmarks.search_steps import CLASSES
from benchmarks.steps import batch, objective
from selfexplain.lease import DARTS, SANAS, ArchitectureSearch, LeaSE
from selfexplain.models import build_model
from selfexplain.spaces import build_supernet
from selfexplain.training.cost import interleaved_ratios
from selfexplain.training.steps import ORDINARY_STEPS, CompiledParts, RecordedStep, gradient_step

WAYS = {
    "as written": {},
    "compiled": {"compiled": True},
    "recorded": {"cuda_graph": True},
    "compiled and recorded": {"compiled": True, "cuda_graph": True},
}
STEPS = 50
"""In a round; the GPU is waited for after them."""
SEARCH_MS_TO_REACH = {"darts1": 12, "darts2": 30, "lease": 60}
"""Milliseconds of a recorded step on an H100, at full size."""
FULL_SIZE = {"nasbench201": 5, "darts": 8}
"""Space -> cells of its supernet, with 16 channels and 64 images."""


def run(device: torch.device) -> list[dict[str, object]]:
    """Seconds of a step, and the time as written over it; nothing where there is no GPU."""
    if device.type != "cuda":
        return []
    steps = {name: _steps(device, **options) for name, options in WAYS.items()}
    times = interleaved_ratios(steps, "as written", rounds=7)
    training: list[dict[str, object]] = [
        {
            "benchmark": f"step, {name}",
            "step_seconds": seconds / STEPS,
            "as written / this": 1 / ratio,
        }
        for name, (seconds, ratio) in times.items()
    ]
    return training + searches(device)


def searches(device: torch.device) -> list[dict[str, object]]:
    """Milliseconds of a search step as written, recorded, and recorded in bf16."""
    rows: list[dict[str, object]] = []
    for space, method in itertools.product(FULL_SIZE, ("darts1", "darts2", "lease", "sanas")):
        steps = {
            "as written": search_step(space, method, device),
            "recorded": search_step(space, method, device, record=True),
            "recorded, bf16": search_step(space, method, device, record=True, bf16=True),
        }
        for way, (seconds, ratio) in interleaved_ratios(steps, "as written", rounds=5).items():
            row: dict[str, object] = {"benchmark": f"search step, {space}, {method}, {way}"}
            row |= {"ms": 1000 * seconds, "as written / this": 1 / ratio}
            if way != "as written" and method in SEARCH_MS_TO_REACH:
                row["to reach"] = f"ms <= {SEARCH_MS_TO_REACH[method]}"
            rows.append(row)
    return rows


def search_step(
    space: str, method: str, device: torch.device, *, record: bool = False, bf16: bool = False
) -> Callable[[], object]:
    """A step of a search at full size, recorded already if it is to be."""
    torch.manual_seed(0)
    net = build_supernet(
        space, num_classes=CLASSES, in_channels=3, image_size=32, cells=FULL_SIZE[space]
    )
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    search: ArchitectureSearch
    if method == "lease":
        audience = build_model("resnet18", num_classes=CLASSES, in_channels=3)
        audience = audience.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        search = LeaSE(net, audience)
    elif method == "sanas":
        search = SANAS(net)
    else:
        search = DARTS(net, order=1 if method == "darts1" else 2)
    if bf16:
        search.autocast(torch.bfloat16)
    if record:
        search.record(RecordedStep)
    pair = search_steps.batch(device, 0), search_steps.batch(device, 1)
    step = partial(search.step, *pair)
    for _ in range(ORDINARY_STEPS + 1 if record else 1):
        step()
    return step


def _steps(
    device: torch.device, *, compiled: bool = False, cuda_graph: bool = False
) -> Callable[[], None]:
    """A function that takes so many training steps with the standard objective."""
    fabric = Fabric(accelerator=device.type, devices=1, precision="bf16-mixed")
    made = objective("standard").train()
    optimizer = torch.optim.SGD(made.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    wrapped, wrapped_optimizer = fabric.setup(made, optimizer)
    gradients = gradient_step(made, wrapped, wrapped_optimizer, fabric, cuda_graph=cuda_graph)
    parts = CompiledParts(made) if compiled else None
    x_BCHW, y_B, _ = batch(device)

    def take(count: int) -> None:
        for _ in range(count):
            gradients(x_BCHW, y_B)
            wrapped_optimizer.step()

    def several(count: int = STEPS) -> None:
        if parts is None:
            take(count)
        else:
            with parts.used():
                take(count)

    several(ORDINARY_STEPS + 1)
    return several
