"""What a training step of each objective costs, measured side by side.

The objectives take turns: in every round each takes one step on the same batch, and
the cost of an objective is the median over rounds of its time divided by the reference's time in
that round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from selfexplain.evaluation.statistics import median_interval
from selfexplain.objectives.shared.base import Objective
from selfexplain.training.optimizers import make_optimizer
from selfexplain.training.options import OptimizerName
from selfexplain.training.steps import (
    ORDINARY_STEPS,
    CompiledParts,
    Step,
    autotuned_convolutions,
    compiled_steps,
    gradient_step,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric


# Time several functions in turns.
#
# Times of separate runs cannot be compared on a machine that others use too. Here the functions
# take turns, and each is compared with a reference within every round.


def interleaved_ratios(
    functions: Mapping[str, Callable[[], object]], reference: str, rounds: int
) -> dict[str, tuple[float, float]]:
    """Median seconds of each function, and median over rounds of its time over the reference's.

    Args:
        functions: by name; the reference is one of them.
        reference: whose ratio is 1.
        rounds: rounds that count, after one that does not.

    Example:
        >>> interleaved_ratios({"a": lambda: sum(range(100))}, "a", rounds=3)["a"][1]
        1.0
    """
    return medians(interleaved_seconds(functions, rounds), reference)


def interleaved_seconds(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    uncounted: int = 1,
    enough: Callable[[int, Mapping[str, Sequence[float]]], bool] = lambda done, seconds: False,
) -> dict[str, list[float]]:
    """Seconds of each function in every round, in which each runs once, in the same order.

    The first `uncounted` rounds do not count. `enough` is asked before each round whether to stop,
    with the number of those that counted so far, negative before the first, and their seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for done in range(-uncounted, rounds):
        if enough(done, seconds):
            break
        for name, function in functions.items():
            took = _seconds(function)
            if done >= 0:
                seconds[name].append(took)
    return seconds


def medians(
    seconds: Mapping[str, Sequence[float]], reference: str
) -> dict[str, tuple[float, float]]:
    """Median of each one's times, and median over rounds of its time over the reference's."""
    return {
        name: (
            statistics.median(times),
            statistics.median(t / r for t, r in zip(times, seconds[reference], strict=True)),
        )
        for name, times in seconds.items()
    }


def ratio_intervals(
    seconds: Mapping[str, Sequence[float]], reference: str
) -> dict[str, tuple[float, float] | None]:
    """95 % interval of each median ratio, over rounds; None for fewer than six."""
    return {
        name: median_interval([t / r for t, r in zip(times, seconds[reference], strict=True)])
        for name, times in seconds.items()
    }


def _seconds(function: Callable[[], object]) -> float:
    _wait()
    started = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    """Until the GPU is done, if one is in use."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Median seconds of a step, and median ratio to the reference's step in the same round."""

    step_seconds: float
    ratio: float
    ratio_ci95: tuple[float, float] | None = None
    """Interval of the ratio; None where there were too few rounds."""


PRECISION = 0.03
"""Width of a ratio's interval, as a fraction of the ratio, from which on it is known."""
MORE_SECONDS = 5.0
"""So long rounds are added for ratios that are not."""
MOST_ROUNDS = 1000


def interleaved_cost(
    objectives: Mapping[str, Objective],
    reference: str,
    batch: tuple[Tensor, Tensor, Tensor],
    *,
    fabric: Fabric,
    compiled: bool = False,
    cuda_graph: bool = False,
    optimizer: OptimizerName = "sgd",
    rounds: int = 20,
    most_seconds: float = 20.0,
    more_seconds: float | None = None,
) -> dict[str, Cost]:
    """Time the training steps (forward, backward, optimizer) of several objectives in turns.

    Objectives are taken past their warm-up; one whose steps differ in a cycle (`objective.period`)
    is timed over whole cycles.

    Args:
        objectives: by name; the reference is one of them. Their weights are changed.
        reference: whose step costs 1.
        batch: images (B, C, H, W), labels (B,) and places in the training set (B,), on the device.
        fabric: where the steps run.
        compiled: whether the networks' parts are compiled, as in training with that option.
        cuda_graph: whether steps that can be are recorded, as in training with that option.
        optimizer: that takes the steps.
        rounds: rounds that are measured, after three that are not; more, as long as the 95 %
            interval of a ratio is wider than 3 % of it.
        most_seconds: stop after this time, but not before three measured rounds.
        more_seconds: add rounds until this time only; None for 5.

    Example:
        >>> from selfexplain.models import build_model
        >>> from selfexplain.objectives import Standard
        >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
        >>> batch = (torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), torch.arange(4))
        >>> from lightning_fabric import Fabric
        >>> fabric = Fabric(accelerator="cpu", devices=1)
        >>> plain = {"standard": Standard(model)}
        >>> interleaved_cost(plain, "standard", batch, fabric=fabric)["standard"].ratio
        1.0
    """
    steppers: dict[str, _Stepper] = {}
    before = None
    for name, objective in objectives.items():
        steppers[name] = _Stepper(objective, batch, fabric, compiled, cuda_graph, optimizer, before)
        before = steppers[name].gradients
    started = time.perf_counter()

    more = MORE_SECONDS if more_seconds is None else more_seconds

    def enough(done: int, seconds: Mapping[str, Sequence[float]]) -> bool:
        passed = time.perf_counter() - started
        stop = done >= 3 and passed > most_seconds
        if done >= rounds and not stop:
            stop = passed > more or _known(seconds, reference)
        return fabric.broadcast(stop)  # one clock decides for all processes

    with autotuned_convolutions():
        seconds = interleaved_seconds(
            steppers, MOST_ROUNDS, uncounted=ORDINARY_STEPS + 1, enough=enough
        )
    of_a_step = {
        name: [cycle / steppers[name].period for cycle in cycles]
        for name, cycles in seconds.items()
    }
    intervals = ratio_intervals(of_a_step, reference)
    return {
        name: Cost(step_seconds=median, ratio=ratio, ratio_ci95=intervals[name])
        for name, (median, ratio) in medians(of_a_step, reference).items()
    }


def _known(seconds: Mapping[str, Sequence[float]], reference: str) -> bool:
    """Whether the interval of every ratio is narrow."""
    ratios = medians(seconds, reference)
    return all(
        interval is not None and interval[1] - interval[0] <= PRECISION * ratios[name][1]
        for name, interval in ratio_intervals(seconds, reference).items()
    )


class _Stepper:
    """An objective with an optimizer of its own; a call takes the steps of one cycle."""

    def __init__(
        self,
        objective: Objective,
        batch: tuple[Tensor, Tensor, Tensor],
        fabric: Fabric,
        compiled: bool,
        cuda_graph: bool,
        optimizer: OptimizerName,
        before: Step | None,
    ) -> None:
        objective.train().skip_warmup()
        self.period = objective.period
        self.batch = batch if objective.wants_indices else batch[:2]
        made = make_optimizer(optimizer, objective, lr=1e-3, weight_decay=0.0)
        wrapped, self.optimizer = fabric.setup(objective, made)
        if cuda_graph:  # some can be recorded only once they have begun
            gradient_step(objective, wrapped, self.optimizer, fabric)(*self.batch)
        self.gradients = gradient_step(
            objective, wrapped, self.optimizer, fabric, cuda_graph=cuda_graph, before=before
        )
        parts = CompiledParts(objective) if compiled else None
        self.compiled = partial(compiled_steps, parts, objective, cuda_graph=cuda_graph)

    def __call__(self) -> None:
        with self.compiled():
            for _ in range(self.period):
                self.gradients(*self.batch)
                self.optimizer.step()
