"""Time several functions in turns.

Times of separate runs cannot be compared on a machine that others use too. Here the functions take
turns, and each is compared with a reference within every round.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


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
    enough: Callable[[int], bool] = lambda done: False,
) -> dict[str, list[float]]:
    """Seconds of each function in every round, in which each runs once, in the same order.

    Args:
        functions: by name.
        rounds: most rounds that count.
        uncounted: rounds before the first that counts.
        enough: is asked before each round whether to stop, with the number of those that counted
            so far, negative before the first.

    Example:
        >>> seconds = interleaved_seconds({"a": list, "b": dict}, 5, enough=lambda done: done == 2)
        >>> [len(times) for times in seconds.values()]
        [2, 2]
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for done in range(-uncounted, rounds):
        if enough(done):
            break
        for name, function in functions.items():
            took = _seconds(function)
            if done >= 0:
                seconds[name].append(took)
    return seconds


def medians(
    seconds: Mapping[str, Sequence[float]], reference: str
) -> dict[str, tuple[float, float]]:
    """Median of each one's times, and median over rounds of its time over the reference's.

    Example:
        >>> medians({"a": [1.0, 2.0, 3.0], "b": [2.0, 6.0, 6.0]}, "a")["b"]
        (6.0, 2.0)
    """
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
    """Until the GPU is done, if one is in use."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
