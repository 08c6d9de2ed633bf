"""Two processes with half of the images each against one process with all of them, in float64."""

from typing import Any

import pytest
import torch
from tests.helpers.two_processes import in_two_processes
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.hypergradients import (
    Level,
    World,
    brute_force_hypergradient,
    hypergradient,
    take_steps,
    unroll,
)
from selfexplain.training.processes import joined_processes

# Sums in another order; differences magnify that by the reciprocal of the step.
TOLERANCE = {"inner_product": 1e-10, "finite_difference": 1e-8, "one_sided": 1e-6}
MODES: list[Any] = list(TOLERANCE)
IMAGES, FEATURES = 6, 3


def per_image(z_BF: Tensor) -> Tensor:
    return z_BF / (z_BF.square().sum(1, keepdim=True) + 1e-3).sqrt()


def unit(w: Tensor) -> Tensor:
    return w / (w.square().sum() + 1e-3).sqrt()


def problem(part: slice, fd_step: float | None = None) -> tuple[Any, ...]:
    """Weights, two perturbations of each image, weights that see them; images of `part` alone."""
    torch.manual_seed(0)
    x, held_out = torch.randn(2, IMAGES, FEATURES, dtype=torch.float64)[:, part]
    y, held_out_y = torch.randn(2, IMAGES, dtype=torch.float64)[:, part]
    w, u, scale = torch.randn(3, FEATURES, dtype=torch.float64)
    shift = torch.tensor(0.4).double()

    def output(v: Any, x: Tensor) -> Tensor:
        return torch.tanh(x @ (v["w"]["w"] * v["a"]["scale"]) + v["a"]["shift"])

    def learns(v: Any) -> Tensor:
        return (output(v, x) - y).square().mean()

    def explains(*names: str) -> Any:
        return lambda v: (output(v, x + sum(v[n] for n in names)) - y).square().sum()

    def audience(v: Any) -> Tensor:
        seen = x * (v["z1"] + v["z2"]).exp()
        return (torch.tanh(seen @ v["u"]) - y).square().mean()

    def outer(v: Any) -> Tensor:
        errors = torch.tanh(held_out @ v["u"]) - held_out_y
        # Own variables in the outer loss too: their adjoints begin there.
        return (errors * output(v, held_out + v["z1"])).square().mean()

    own = {"maximize": True, "project": torch.tanh, "direction": per_image, "shared": False}
    levels = [
        Level("w", learns, 0.3, direction=unit, finite_difference_step=fd_step),
        Level("z1", explains("z1"), 0.7, finite_difference_step=fd_step, **own),
        Level("z2", explains("z1", "z2"), 0.7, finite_difference_step=fd_step, **own),
        Level("u", audience, 0.5, finite_difference_step=fd_step),
    ]
    start = {
        "w": {"w": w},
        "z1": torch.zeros_like(x),
        "z2": torch.zeros_like(x),
        "u": u,
        "a": {"scale": scale, "shift": shift},
    }
    return levels, outer, start


ALL = slice(0, IMAGES)
CASES = [(mode, fd_step) for mode in MODES for fd_step in (None, 0.3)]


def halves(rank: int) -> dict[str, Any]:
    part = slice(rank * IMAGES // 2, (rank + 1) * IMAGES // 2)
    processes = joined_processes()
    found: dict[str, Any] = {}
    for mode, fd_step in CASES:
        levels, outer, start = problem(part, fd_step)
        unrolled = unroll(levels, outer, start, "a", mode, processes)
        found[f"{mode} {fd_step}"] = {
            name: getattr(unrolled, name)
            for name in ("hypergradient", "outer", "losses", "gradients", "stepped")
        }
    found["walk"] = take_steps(levels, start, processes)
    return found


@pytest.fixture(scope="module")
def in_halves(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return in_two_processes(halves, tmp_path_factory.mktemp("halves"))


def flat(value: Any) -> Tensor:
    tensors = value.values() if isinstance(value, dict) else [value]
    return torch.cat([t.flatten() for t in tensors])


def relative_error(a: Any, b: Any) -> float:
    return float((flat(a) - flat(b)).norm() / flat(b).norm())


@pytest.mark.parametrize(("mode", "fd_step"), CASES)
def test_the_hypergradient_is_that_of_one_process(
    mode: Any, fd_step: float | None, in_halves: list[Any]
) -> None:
    levels, outer, start = problem(ALL, fd_step)
    whole = hypergradient(levels, outer, start, "a", mode)
    first, second = (found[f"{mode} {fd_step}"]["hypergradient"] for found in in_halves)
    assert relative_error(first, whole) < TOLERANCE[mode]
    assert torch.equal(flat(first), flat(second))  # to the bit, or the processes drift apart


def test_and_that_is_the_gradient_of_the_whole_map(in_halves: list[Any]) -> None:
    levels, outer, start = problem(ALL)
    truth = brute_force_hypergradient(levels, outer, start, "a", step=1e-4)
    assert relative_error(in_halves[0]["inner_product None"]["hypergradient"], truth) < 1e-7


def test_losses_gradients_and_steps_are_those_of_one_process(in_halves: list[Any]) -> None:
    levels, outer, start = problem(ALL)
    whole = unroll(levels, outer, start, "a", "inner_product")
    for rank, found in enumerate(in_halves):
        mine = found["inner_product None"]
        torch.testing.assert_close(mine["outer"], whole.outer)
        walked = dict(zip(("losses", "gradients", "stepped"), found["walk"], strict=True))
        for level in levels:
            own = slice(None)
            loss = whole.losses[level.name]
            if not level.shared:
                own = slice(rank * IMAGES // 2, (rank + 1) * IMAGES // 2)
                loss = loss / 2  # a sum over images, whose mean over processes is told
            for told in (mine, walked):
                torch.testing.assert_close(told["losses"][level.name], loss)
                for kind in ("gradients", "stepped"):
                    expected = flat(getattr(whole, kind)[level.name]).reshape(-1, FEATURES)
                    actual = flat(told[kind][level.name]).reshape(-1, FEATURES)
                    torch.testing.assert_close(actual, expected[own])


def test_the_whole_chain_at_once_is_refused_for_several_processes() -> None:
    levels, outer, start = problem(ALL)
    with pytest.raises(InputError, match="pass inner_product, which is exact too"):
        hypergradient(levels, outer, start, "a", "exact", World(0, 2, tuple))
