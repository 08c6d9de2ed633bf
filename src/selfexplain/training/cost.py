"""What a training step of each objective costs, measured side by side.

Times of separate runs cannot be compared on a machine that others use too. Here the objectives take
turns: in every round each takes one step on the same batch, and the cost of an objective is the
median over rounds of its time divided by the reference's time in that round.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from selfexplain.objectives.base import Objective


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Median seconds of a step, and median ratio to the reference's step in the same round."""

    step_seconds: float
    ratio: float


def interleaved_cost(
    objectives: Mapping[str, Objective],
    reference: str,
    batch: tuple[Tensor, Tensor, Tensor],
    *,
    fabric: Fabric,
    rounds: int = 20,
    most_seconds: float = 20.0,
) -> dict[str, Cost]:
    """Time the training steps (forward, backward, SGD) of several objectives in turns.

    Objectives are taken past their warm-up; one whose steps differ in a cycle (`objective.period`)
    is timed over whole cycles.

    Args:
        objectives: by name; the reference is one of them. Their weights are changed.
        reference: whose step costs 1.
        batch: images (B, C, H, W), labels (B,) and places in the training set (B,), on the device.
        fabric: where the steps run.
        rounds: most rounds that are measured, after two that are not.
        most_seconds: stop after this time, but not before three measured rounds.

    Example:
        >>> from selfexplain.models import build_model
        >>> from selfexplain.objectives import Standard
        >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
        >>> batch = (torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), torch.arange(4))
        >>> fabric = Fabric(accelerator="cpu", devices=1)
        >>> plain = {"standard": Standard(model)}
        >>> interleaved_cost(plain, "standard", batch, fabric=fabric)["standard"].ratio
        1.0
    """
    steppers = {name: _Stepper(objective, fabric) for name, objective in objectives.items()}
    seconds: dict[str, list[float]] = {name: [] for name in objectives}
    started = time.perf_counter()
    for done in range(-2, rounds):
        late = done >= 3 and time.perf_counter() - started > most_seconds
        if fabric.broadcast(late):  # one clock decides for all processes
            break
        for name, stepper in steppers.items():
            took = stepper.seconds_of_a_step(*batch)
            if done >= 0:
                seconds[name].append(took)
    return {
        name: Cost(
            step_seconds=statistics.median(times),
            ratio=statistics.median(t / r for t, r in zip(times, seconds[reference], strict=True)),
        )
        for name, times in seconds.items()
    }


class _Stepper:
    """An objective with an optimiser of its own."""

    def __init__(self, objective: Objective, fabric: Fabric) -> None:
        objective.train().skip_warmup()
        self.period, self.wants_indices = objective.period, objective.wants_indices
        self.fabric = fabric
        optimiser = torch.optim.SGD(objective.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
        self.objective, self.optimiser = fabric.setup(objective, optimiser)

    def seconds_of_a_step(self, x_BCHW: Tensor, y_B: Tensor, index_B: Tensor) -> float:
        batch = (x_BCHW, y_B, index_B) if self.wants_indices else (x_BCHW, y_B)
        self._wait()
        started = time.perf_counter()
        for _ in range(self.period):
            self.optimiser.zero_grad()
            self.fabric.backward(self.objective(*batch)["loss"])
            self.optimiser.step()
        self._wait()
        return (time.perf_counter() - started) / self.period

    def _wait(self) -> None:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)
