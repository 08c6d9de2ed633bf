"""A training step as written, compiled, recorded, and both: ResNet-18, 128 images, bf16, a GPU."""

from collections.abc import Callable

import torch
from lightning_fabric import Fabric

from benchmarks.steps import batch, objective
from selfexplain.training.cost import interleaved_ratios
from selfexplain.training.steps import ORDINARY_STEPS, CompiledParts, gradient_step

WAYS = {
    "as written": {},
    "compiled": {"compiled": True},
    "recorded": {"cuda_graph": True},
    "compiled and recorded": {"compiled": True, "cuda_graph": True},
}
STEPS = 50
"""In a round; the GPU is waited for after them."""


def run(device: torch.device) -> list[dict[str, object]]:
    """Seconds of a step, and the time as written over it; nothing where there is no GPU."""
    if device.type != "cuda":
        return []
    steps = {name: _steps(device, **options) for name, options in WAYS.items()}
    times = interleaved_ratios(steps, "as written", rounds=7)
    return [
        {
            "benchmark": f"step, {name}",
            "step_seconds": seconds / STEPS,
            "as written / this": 1 / ratio,
        }
        for name, (seconds, ratio) in times.items()
    ]


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
