"""Steps of a search in units of one plain supernet pass: DARTS space, 16 channels, 8 cells.

A pass is one forward and backward towards weights and architecture. The unit is a pass of the plain
twin, edge by edge and contiguous, as the published supernets compute it; beside it stand a pass of
our own supernet, a textbook second-order DARTS step on the plain twin, and Betty's on the same
(`pip install --no-deps betty-ml`) if it imports.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tests.oracles.spaces import plain_logits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.memory import in_own_process, peak_bytes
from selfexplain.hypergradients import Mode
from selfexplain.lease import DARTS, ArchitectureSearch, LeaSE, LeaSEOptions
from selfexplain.models import build_model
from selfexplain.spaces import Supernet, build_supernet
from selfexplain.training.cost import interleaved_ratios

CLASSES = 10
UNIT = "plain pass"
TO_REACH = {
    "darts1": "<= 1.4",
    "darts2": "<= 3.0",
    "lease": "<= 6",
    "lease, inner products": "<= 5",
}
PEAK_TO_REACH = {"lease": "<= 2", "lease, forward over reverse": "<= 1.5"}
ROUNDS = 5


def run(device: torch.device, only: Sequence[str] = ()) -> list[dict[str, object]]:
    """Ratios of time, interleaved, and of peak memory, in processes of their own.

    Args:
        device: where.
        only: searches to measure, beside the two passes; none for all, and those of others.
    """
    batches = batch(device, 0), batch(device, 1)
    functions: dict[str, Callable[[], object]] = {
        UNIT: plain_pass(device),
        "our pass": our_pass(device),
        **{name: step_of(name, device) for name in only or SEARCHES},
    }
    if not only:
        functions["darts2, textbook"] = textbook_darts(device, *batches)
        functions |= betty_darts(device, *batches)
    times = interleaved_ratios(functions, UNIT, ROUNDS)
    rows: list[dict[str, object]] = []
    for name, (seconds, ratio) in times.items():
        row: dict[str, object] = {"benchmark": f"search step, {name}", "seconds": seconds}
        row |= {"ratio": ratio, "ratio to our pass": seconds / times["our pass"][0]}
        if name in TO_REACH:
            row["to reach"] = f"ratio {TO_REACH[name]}"
        rows.append(row)
    names = (UNIT, "our pass", *(only or SEARCHES))
    peaks = {name: in_own_process("benchmarks.search_steps", name, device) for name in names}
    for name in names[1:]:
        row = {
            "benchmark": f"search peak memory, {name}",
            "peak_mib": peaks[name] / 2**20,
            "ratio": peaks[name] / peaks[UNIT],
            "ratio to our pass": peaks[name] / peaks["our pass"],
        }
        if name in PEAK_TO_REACH:
            row["to reach"] = f"ratio {PEAK_TO_REACH[name]}"
        rows.append(row)
    return rows


def batch(device: torch.device, seed: int) -> tuple[Tensor, Tensor]:
    """64 images on a GPU, 8 on a CPU, where a step of 64 takes minutes."""
    count = 64 if device.type == "cuda" else 8
    generator = torch.Generator().manual_seed(seed)
    x_BCHW = torch.randn(count, 3, 32, 32, generator=generator)
    x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    return x_BCHW.to(device), (torch.arange(count) % CLASSES).to(device)


def supernet(device: torch.device) -> Supernet:
    torch.manual_seed(0)
    net = build_supernet(
        "darts", num_classes=CLASSES, in_channels=3, image_size=32, channels=16, cells=8
    )
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def our_pass(device: torch.device) -> Callable[[], object]:
    net = supernet(device)
    (x_BCHW, y_B), architecture = batch(device, 0), start(net, device)
    wanted = [*net.parameters(), *architecture.values()]
    return lambda: torch.autograd.grad(cross_entropy(net(x_BCHW, architecture), y_B), wanted)


def plain_pass(device: torch.device) -> Callable[[], object]:
    net = plain_supernet(device)
    (x_BCHW, y_B), architecture = batch(device, 0), start(net, device)
    x_BCHW = x_BCHW.contiguous()
    wanted = [*net.parameters(), *architecture.values()]

    def one_pass() -> object:
        logits_BK = plain_logits(net, x_BCHW, architecture)
        return torch.autograd.grad(cross_entropy(logits_BK, y_B), wanted)

    return one_pass


def plain_supernet(device: torch.device) -> Supernet:
    return supernet(device).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def start(net: Supernet, device: torch.device) -> dict[str, Tensor]:
    return {name: t.to(device).requires_grad_() for name, t in net.new_architecture().items()}


def lease(device: torch.device, mode: Mode, **options: Any) -> ArchitectureSearch:
    torch.manual_seed(0)
    audience = build_model("resnet18", num_classes=CLASSES, in_channels=3)
    audience = audience.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LeaSE(supernet(device), audience, options=LeaSEOptions(mode=mode, **options))


SEARCHES: dict[str, Callable[[torch.device], ArchitectureSearch]] = {
    "darts1": lambda device: DARTS(supernet(device), order=1),
    "darts2": lambda device: DARTS(supernet(device), order=2),
    "darts2, one-sided": lambda device: DARTS(supernet(device), order=2, mode="one_sided"),
    "darts2, inner products": lambda device: DARTS(supernet(device), order=2, mode="inner_product"),
    "lease": lambda device: lease(device, "finite_difference"),
    "lease, one-sided": lambda device: lease(device, "one_sided"),
    "lease, inner products": lambda device: lease(device, "inner_product"),
    "lease, forward over reverse": lambda device: lease(device, "forward_over_reverse"),
    "lease, normalised": lambda device: lease(device, "inner_product", coupling="normalised"),
    "lease, exact": lambda device: lease(device, "exact"),
}


def step_of(name: str, device: torch.device) -> Callable[[], object]:
    if name in (UNIT, "our pass"):
        return plain_pass(device) if name == UNIT else our_pass(device)
    search = SEARCHES[name](device)
    train, held_out = batch(device, 0), batch(device, 1)
    return lambda: search.step(train, held_out)


def textbook_darts(
    device: torch.device, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]
) -> Callable[[], object]:
    """The second-order step as published: unroll, differences, then the weights' own step."""
    net = plain_supernet(device)
    architecture = start(net, device)
    alphas, weights = list(architecture.values()), list(net.parameters())
    optimizers = (torch.optim.Adam(alphas, lr=3e-4), torch.optim.SGD(weights, lr=0.025))

    def loss(x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        return cross_entropy(plain_logits(net, x_BCHW.contiguous(), architecture), y_B)

    def shift(by: float, along: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            for w, v in zip(weights, along, strict=True):
                w.add_(v, alpha=by)

    def step() -> None:
        before = [w.detach().clone() for w in weights]
        shift(-0.025, torch.autograd.grad(loss(*train), weights))
        both = torch.autograd.grad(loss(*held_out), [*weights, *alphas])
        along, direct = both[: len(weights)], both[len(weights) :]
        with torch.no_grad():
            for w, b in zip(weights, before, strict=True):
                w.copy_(b)
        r = 0.01 / float(torch.cat([v.flatten() for v in along]).norm())
        shift(r, along)
        up = torch.autograd.grad(loss(*train), alphas)
        shift(-2 * r, along)
        down = torch.autograd.grad(loss(*train), alphas)
        shift(r, along)
        for a, d, u, v in zip(alphas, direct, up, down, strict=True):
            a.grad = d - 0.025 * (u - v) / (2 * r)
        optimizers[0].step()
        for w, g in zip(weights, torch.autograd.grad(loss(*train), weights), strict=True):
            w.grad = g
        optimizers[1].step()

    return step


def betty_darts(
    device: torch.device, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]
) -> dict[str, Callable[[], object]]:
    """Betty's step on the plain twin, against its public interface; nothing if it is not there."""
    try:
        problems = importlib.import_module("betty.problems")
        configs = importlib.import_module("betty.configs")
        engines = importlib.import_module("betty.engine")
    except ImportError:
        return {}
    betty = problems, configs, engines
    step = _betty_step(betty, plain_supernet(device), device, train, held_out)
    return {"darts2, Betty": step}


def _betty_step(
    betty: tuple[Any, Any, Any],
    net: Supernet,
    device: torch.device,
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
) -> Callable[[], object]:
    problems, configs, engines = betty
    architecture = nn.ParameterDict(
        {name: nn.Parameter(t.to(device)) for name, t in net.new_architecture().items()}
    )

    class Outer(problems.ImplicitProblem):  # type: ignore[misc,name-defined]
        def training_step(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            return loss(*pair)

    class Inner(problems.ImplicitProblem):  # type: ignore[misc,name-defined]
        def training_step(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            return loss(*pair)

    def loss(x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        alphas = dict(outer.module.items())
        return cross_entropy(plain_logits(inner.module, x_BCHW.contiguous(), alphas), y_B)

    outer = Outer(
        name="outer",
        module=architecture,
        optimizer=torch.optim.Adam(architecture.parameters(), lr=3e-4),
        train_data_loader=[held_out],
        config=configs.Config(type="darts", first_order=True, retain_graph=True),
        device=device,
    )
    inner = Inner(
        name="inner",
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.025),
        train_data_loader=[train],
        config=configs.Config(type="darts", unroll_steps=1, first_order=False),
        device=device,
    )
    engine = engines.Engine(
        config=configs.EngineConfig(train_iters=1),
        problems=[outer, inner],
        dependencies={"u2l": {outer: [inner]}, "l2u": {inner: [outer]}},
    )
    return engine.train_step  # type: ignore[no-any-return]


if __name__ == "__main__":
    on = torch.device(sys.argv[2])
    print(peak_bytes(step_of(sys.argv[1], on), on))
