"""The real levels in two processes with half of each batch against one process, in float64."""

from typing import Any

import pytest
import torch
from tests.helpers.lease_nets import (
    SmoothReLU,
    audience,
    batch,
    per_image_norm,
    relative_error,
    supernet,
)
from tests.helpers.two_processes import in_two_processes

from selfexplain.hypergradients import World, unroll
from selfexplain.lease import DARTS, SANAS, ArchitectureSearch, LeaSE, LeaSEOptions, Rates
from selfexplain.lease.bases import DrNAS
from selfexplain.lease.search import Batch
from selfexplain.lease.selection import audience_score, decide, supernet_score
from selfexplain.training.processes import joined_processes

pytestmark = pytest.mark.slow

RATES = Rates(lr=0.1, audience_lr=0.1)
# Sums in another order; differences magnify that by the reciprocal of the step.
TOLERANCE = {"inner_product": 1e-10, "finite_difference": 1e-8, "one_sided": 1e-8}
MODES: list[Any] = list(TOLERANCE)
OPTIONS: dict[str, dict[str, Any]] = {
    **{path: {"gradient_path": path} for path in ("full", "no_explanation", "explainer_only")},
    "plain, two steps": {"attack": "plain", "explanation_steps": 2, "gamma": 3.0},
    "shuffled": {"control": "shuffled_delta"},
    "random": {"control": "random_delta"},
    "mask, series": {"shown": "soft_mask", "audience_inverse": "neumann", "neumann_terms": 3},
    **{
        name: {"shown": "soft_mask", "explanation": name, "eps": 8 / 255, "step_size": 8 / 255}
        for name in ("cam", "squared_gradients")
    },
}


def lease(processes: World, options: str = "full") -> ArchitectureSearch:
    given = LeaSEOptions(**({"eps": 0.2, "step_size": 0.2} | OPTIONS[options]))
    return LeaSE(supernet(), audience(), options=given, rates=RATES, processes=processes)


def sanas(processes: World) -> ArchitectureSearch:
    options = LeaSEOptions(eps=0.2, step_size=0.2, gradient_path="full")
    return SANAS(supernet(), options=options, rates=RATES, processes=processes)


SEARCHES: dict[str, Any] = {
    **{name: lambda p, name=name: lease(p, name) for name in OPTIONS},
    "sanas": sanas,
    "darts2": lambda p: DARTS(supernet(), order=2, rates=RATES, processes=p),
}
CASES = [(name, mode) for name in ("full", "darts2") for mode in MODES]
CASES += [(name, "inner_product") for name in SEARCHES if name not in ("full", "darts2")]


def share(seed: int, processes: World) -> Batch:
    x_BCHW, y_B = batch(seed)
    part = [t.chunk(processes.count)[processes.rank] for t in (x_BCHW, y_B)]
    return part[0], part[1]


def hypergradients(processes: World) -> dict[str, Any]:
    return {f"{name} {mode}": hypergradient_of(name, mode, processes) for name, mode in CASES}


def hypergradient_of(name: str, mode: Any, processes: World) -> Any:
    search = SEARCHES[name](processes)
    with SmoothReLU(), per_image_norm():
        step = search.declare(share(2, processes), share(3, processes))
        generator = torch.Generator().manual_seed(5)  # away from the start, where all weigh alike
        architecture = {
            k: torch.randn(t.shape, generator=generator).double()
            for k, t in search.architecture.items()
        }
        variables = {**search.variables(), **step.start, "architecture": architecture}
        found = unroll(step.levels, step.outer, variables, "architecture", mode, processes)
    return found.hypergradient


def walked(search: ArchitectureSearch) -> dict[str, Any]:
    """A step of a warm-up and two others, without BatchNorm."""
    losses = []
    with SmoothReLU(), per_image_norm():
        for seed in (2, 4, 6):
            batches = share(seed, search.processes), share(seed + 1, search.processes)
            losses.append(search.step(*batches, move_architecture=seed > 2))
    return {"losses": losses, "state": search.state_dict()}


def with_batch_norm(search: ArchitectureSearch) -> dict[str, Any]:
    """A step, and one that only the second process's images make infinite."""
    search.step(share(2, search.processes), share(3, search.processes))
    x_BCHW, y_B = share(4, search.processes)
    x_BCHW = x_BCHW * float("inf") if search.processes.rank == 1 else x_BCHW
    search.step((x_BCHW, y_B), share(5, search.processes))
    return search.state_dict()


def decided(processes: World) -> dict[str, Any]:
    """A search on a base that draws and halves, and two edges of its cell."""
    options = LeaSEOptions(eps=0.2, step_size=0.2, coupling="normalised", control="shuffled_delta")
    search = LeaSE(
        supernet(),
        audience(),
        options=options,
        rates=RATES,
        processes=processes,
        base=DrNAS(progressive=True),
    )
    search.set_progress(0.5)
    found = walked(search)
    with SmoothReLU(), per_image_norm():
        for score in (
            supernet_score(search, lambda: [batch(8)]),
            audience_score(search, lambda: [share(9, processes)], lambda: [batch(8)], steps=1),
        ):
            found[f"score {len(found)}"] = score(search.expected())
            decide(search, score)
    return found | {"kept": search.kept}


def paths(processes: World) -> dict[str, Any]:
    darts1 = DARTS(supernet(), order=1, rates=RATES, processes=processes)
    return {
        "darts1": walked(darts1),
        "lease": walked(lease(processes, "shuffled")),
        "decided": decided(processes),
        "with_batch_norm": with_batch_norm(lease(processes)),
    }


def both(rank: int) -> dict[str, Any]:
    return hypergradients(joined_processes()) | paths(joined_processes())


@pytest.fixture(scope="module")
def in_halves(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return in_two_processes(both, tmp_path_factory.mktemp("halves"))


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_the_hypergradient_is_that_of_one_process(
    name: str, mode: str, in_halves: list[Any]
) -> None:
    whole = hypergradient_of(name, mode, World())
    first, second = (found[f"{name} {mode}"] for found in in_halves)
    assert relative_error(first, whole) < TOLERANCE[mode]
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_search_walks_the_path_of_one_process(in_halves: list[Any]) -> None:
    alone = {
        "darts1": walked(DARTS(supernet(), order=1, rates=RATES)),
        "lease": walked(lease(World(), "shuffled")),
        "decided": decided(World()),
    }
    for name, whole in alone.items():
        torch.testing.assert_close(in_halves[0][name], whole, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["darts1", "lease", "decided", "with_batch_norm"])
def test_all_processes_hold_the_same_to_the_bit(name: str, in_halves: list[Any]) -> None:
    first, second = (found[name] for found in in_halves)
    torch.testing.assert_close(second, first, rtol=0, atol=0)


def test_a_step_is_skipped_by_all_if_one_has_bad_numbers(in_halves: list[Any]) -> None:
    before = lease(World()).state_dict()
    for state in (found["with_batch_norm"] for found in in_halves):
        assert state["skipped"] == [1, 1]
        assert not torch.equal(state["architecture"]["cell"], before["architecture"]["cell"])
        for name, start in before["explained_statistics"].items():
            moved = state["explained_statistics"][name]
            assert moved.isfinite().all()
            assert not torch.equal(moved, start)
