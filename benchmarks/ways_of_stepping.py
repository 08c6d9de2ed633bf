"""Steps on a GPU as written, compiled and recorded: of a training (ResNet-18), and of searches."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from lightning_fabric import Fabric

from benchmarks import search_steps
from benchmarks.search_steps import CLASSES
from benchmarks.steps import batch, objective
from selfexplain.errors import InputError, first_line
from selfexplain.lease import DARTS, SANAS, ArchitectureSearch, LeaSE
from selfexplain.models import build_model
from selfexplain.spaces import build_supernet
from selfexplain.training.cost import interleaved_ratios
from selfexplain.training.steps import (
    ORDINARY_STEPS,
    CompiledParts,
    RecordedStep,
    autotuned_convolutions,
    gradient_step,
)

WAYS = {
    "as written": {},
    "compiled": {"compiled": True},
    "recorded": {"cuda_graph": True},
    "compiled and recorded": {"compiled": True, "cuda_graph": True},
}
SEARCH_WAYS: dict[str, dict[str, bool]] = {
    "as written": {},
    "recorded": {"record": True},
    "recorded, bf16": {"record": True, "bf16": True},
}
STEPS = 50
"""In a round; the GPU is waited for after them."""
SEARCH_MS_TO_REACH = {"darts1": 12, "darts2": 30, "lease": 60}
"""Milliseconds of a recorded step on an H100, at full size."""
SEEDS, TOGETHER_TO_REACH = 8, 3
"""Searches side by side, and how many times as long as one alone they may take."""
FULL_SIZE = {"nasbench201": 5, "darts": 8}
"""Space -> cells of its supernet, with 16 channels and 64 images."""


def run(device: torch.device) -> Iterator[dict[str, object]]:
    """Seconds of a step, and the time as written over it; nothing where there is no GPU."""
    if device.type != "cuda":
        return
    steps = {name: _steps(device, **options) for name, options in WAYS.items()}
    times = interleaved_ratios(steps, "as written", rounds=7)
    for name, (seconds, ratio) in times.items():
        yield {
            "benchmark": f"step, {name}",
            "step_seconds": seconds / STEPS,
            "as written / this": 1 / ratio,
        }
    yield from searches(device)


def searches(device: torch.device) -> Iterator[dict[str, object]]:
    """Milliseconds of a search step as written, recorded, and recorded in bf16, one after another.

    Each has the GPU's memory for itself, since some need most of it. Then so many searches side by
    side, each recorded and on a stream of its own, over the time of one.
    """
    for space, method in itertools.product(FULL_SIZE, ("darts1", "darts2", "lease", "sanas")):
        times: dict[str, float] = {}
        for way, options in SEARCH_WAYS.items():
            row: dict[str, object] = {"benchmark": f"search step, {space}, {method}, {way}"}
            try:
                one = [search_of(space, method, device, **options)]
                times[way] = seconds_of_a_step(one, device, recorded="record" in options)
            except (torch.OutOfMemoryError, InputError) as error:
                yield {**row, "failed": first_line(error)}
                continue
            row |= {"ms": 1000 * times[way]}
            if "as written" in times:
                row["as written / this"] = times["as written"] / times[way]
            if way != "as written" and method in SEARCH_MS_TO_REACH:
                row["to reach"] = f"ms <= {SEARCH_MS_TO_REACH[method]}"
            yield row
        if space == "nasbench201" and "recorded" in times:
            yield side_by_side(space, method, device, times["recorded"])


def side_by_side(space: str, method: str, device: torch.device, alone: float) -> dict[str, object]:
    """Recorded searches that take their steps side by side, over the time of one alone."""
    row: dict[str, object] = {"benchmark": f"{SEEDS} searches side by side, {space}, {method}"}
    try:
        together = [search_of(space, method, device, record=True) for _ in range(SEEDS)]
        seconds = seconds_of_a_step(together, device, recorded=True)
    except (torch.OutOfMemoryError, InputError) as error:
        return {**row, "failed": first_line(error)}
    to_reach = f"ratio <= {TOGETHER_TO_REACH}"
    return {**row, "ms": 1000 * seconds, "ratio": seconds / alone, "to reach": to_reach}


def seconds_of_a_step(
    searches: list[ArchitectureSearch], device: torch.device, *, recorded: bool
) -> float:
    """Median seconds in which each search takes a step, on a stream of its own if it has company.

    The memory of the searches is given back.
    """
    pair = search_steps.batch(device, 0), search_steps.batch(device, 1)
    own = torch.cuda.current_stream()
    streams = [torch.cuda.Stream() for _ in searches] if len(searches) > 1 else [own]  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()

    def step() -> None:
        begun = []
        for search, stream in zip(searches, streams, strict=True):
            with torch.cuda.stream(stream):
                begun.append(search.begin_step(*pair))
        for search, stream, half in zip(searches, streams, begun, strict=True):
            with torch.cuda.stream(stream):
                search.finish_step(half)

    seconds = []
    with autotuned_convolutions():
        for _ in range(ORDINARY_STEPS + 1 if recorded else 1):
            step()
        for _ in range(15 if recorded else 5):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            step()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    searches.clear()
    gc.collect()
    torch.cuda.empty_cache()
    return statistics.median(seconds)


def search_of(
    space: str, method: str, device: torch.device, *, record: bool = False, bf16: bool = False
) -> ArchitectureSearch:
    """A search at full size, whose steps are recorded if they are to be."""
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
    return search


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
