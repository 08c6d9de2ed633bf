"""What a captured search step has a GPU do: its kernels, those that take longest first.

`python -m benchmarks.kernels darts1` needs a GPU; the method is one of those of `ways_of_stepping`.
"""

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from benchmarks import search_steps
from benchmarks.ways_of_stepping import search_of
from selfexplain.training.steps import ORDINARY_STEPS, RecordedStep

REPLAYS = 5


def seconds(function: Callable[[], object]) -> float:
    """Seconds that a call takes, the GPU's work included."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def main(method: str) -> None:
    """Print milliseconds of a replay, and the kernels of one, at full size in NAS-Bench-201."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks.kernels needs a CUDA device; PyTorch finds none")
    device = torch.device("cuda")
    search, recorded = search_of("nasbench201", method, device), list[RecordedStep[Any]]()

    def recorder(compute: Callable[..., Any]) -> RecordedStep[Any]:
        recorded.append(RecordedStep(compute))
        return recorded[-1]

    search.record(recorder)
    pair = search_steps.batch(device, 0), search_steps.batch(device, 1)
    for _ in range(ORDINARY_STEPS + 1):
        search.step(*pair)
    (graph,) = (each.graph for each in recorded if each.graph is not None)
    print(method, "replay ms", 1000 * median([seconds(graph.replay) for _ in range(REPLAYS)]))
    begun = []
    print(
        method,
        "begin and replay ms",
        1000 * seconds(lambda: begun.append(search.begin_step(*pair))),
    )
    print(method, "finish ms", 1000 * seconds(lambda: search.finish_step(begun[0])))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        graph.replay()
        torch.cuda.synchronize()
    kernels = profile.key_averages()
    print(method, "kernels", sum(each.count for each in kernels))
    print(kernels.table(sort_by="cuda_time_total", row_limit=28, max_name_column_width=90))


if __name__ == "__main__":
    main(*sys.argv[1:])
