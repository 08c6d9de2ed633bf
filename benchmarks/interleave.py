"""Time several functions in turns."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved_ratios(
    functions: Mapping[str, Callable[[], object]], reference: str, rounds: int
) -> dict[str, tuple[float, float]]:
    """Median seconds of each function, and median over rounds of its time over the reference's.

    In each round every function runs once, in the same order; one round before the first is not
    counted.

    Example:
        >>> interleaved_ratios({"a": lambda: sum(range(100))}, "a", rounds=3)["a"][1]
        1.0
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for done in range(-1, rounds):
        for name, function in functions.items():
            took = _seconds(function)
            if done >= 0:
                seconds[name].append(took)
    return {
        name: (
            statistics.median(times),
            statistics.median(t / r for t, r in zip(times, seconds[reference], strict=True)),
        )
        for name, times in seconds.items()
    }


def _seconds(function: Callable[[], object]) -> float:
    _wait()
    started = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
