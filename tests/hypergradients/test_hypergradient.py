"""Hypergradients of every mode against brute-force differences of the whole composed map."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from selfexplain.errors import InputError
from selfexplain.hypergradients import (
    Level,
    all_finite,
    as_function,
    brute_force_hypergradient,
    hypergradient,
    unroll,
    unroll_each,
)
from selfexplain.hypergradients.exact import PrimitiveBatchNorm
from selfexplain.hypergradients.level import leaves

EXACT, DIFFERENCE = 1e-7, 1e-4
ONE_SIDED = 1e-5  # an error of first order in a step of 3e-8
TOLERANCE = {
    "exact": EXACT,
    "inner_product": EXACT,
    "forward_over_reverse": EXACT,
    "finite_difference": DIFFERENCE,
    "one_sided": ONE_SIDED,
}
MODES: list[Any] = list(TOLERANCE)


def relative_error(a: Any, b: Any) -> float:
    x, y = (torch.cat([t.flatten() for t in leaves(v)]) for v in (a, b))
    return float((x - y).norm() / y.norm())


def network(seed: int, inputs: int, outputs: int) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, outputs)).double()
    return net, {k: v.detach() for k, v in net.named_parameters()}


def unit(gradient: Tensor) -> Tensor:
    return gradient / (gradient.square().sum() + 1e-3).sqrt()


def problem(
    seed: int, depth: int, direct: bool, as_dict: bool, through_all: bool = True
) -> tuple[Any, ...]:
    """A chain of `depth` levels of random networks, each fed by the one before and by `a`."""
    torch.manual_seed(seed)
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    nets = {f"w{i}": network(10 * seed + i, 3 if i == 0 else 2, 2) for i in range(depth)}
    a = torch.randn(3, dtype=torch.float64)
    variables: dict[str, Any] = {name: start for name, (_, start) in nets.items()}
    variables["a"] = {"scale": a[:2], "shift": a[2:]} if as_dict else a

    def scaled(v: Any) -> tuple[Tensor, Tensor]:
        a = v["a"]
        return (a["scale"], a["shift"]) if as_dict else (a[:2], a[2:])

    def output(v: Any, last: int) -> Tensor:
        h = x
        for i in range(last + 1):
            h = functional_call(nets[f"w{i}"][0], v[f"w{i}"], h)
            if i == 0 and (last == 0 or through_all):  # else the later levels see `a` through w0
                scale, shift = scaled(v)
                h = torch.tanh(h * scale + shift)
        return h

    def loss(i: int) -> Any:
        return lambda v: (output(v, i) - y).square().mean() + 0.05 * v[f"w{i}"]["0.bias"].sum() ** 2

    levels = [
        Level(
            f"w{i}",
            loss(i),
            lr=0.3,
            maximize=i == 1,
            project=torch.tanh if i == 1 else None,
            direction=unit if i > 0 else None,
        )
        for i in range(depth)
    ]

    def outer(v: Any) -> Tensor:
        value = (output(v, depth - 1) - 2 * y).square().mean()
        return value + (scaled(v)[0] ** 3).sum() if direct else value

    return levels, outer, variables


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_mode_equals_brute_force(depth: int, direct: bool, as_dict: bool, seed: int) -> None:
    levels, outer, variables = problem(seed, depth, direct, as_dict, through_all=seed != 2)
    truth = brute_force_hypergradient(levels, outer, variables, "a")
    for mode in MODES:
        found = hypergradient(levels, outer, variables, "a", mode)
        assert relative_error(found, truth) < TOLERANCE[mode], mode
        assert type(found) is type(variables["a"])


@pytest.mark.parametrize("mode", MODES)
def test_unrolling_gives_the_steps_as_they_were_taken(mode: Any) -> None:
    levels, outer, variables = problem(0, 3, direct=True, as_dict=False)
    unrolled = unroll(levels, outer, variables, "a", mode)
    seen = {"a": variables["a"]}
    for level in levels:
        view = {**seen, level.name: variables[level.name]}
        loss, gradient = level.gradient(view)
        seen[level.name] = level.step(view)
        assert unrolled.losses[level.name].item() == pytest.approx(loss.item(), rel=1e-12)
        assert relative_error(unrolled.gradients[level.name], gradient) < 1e-12
        assert relative_error(unrolled.stepped[level.name], seen[level.name]) < 1e-12
    assert unrolled.outer.item() == pytest.approx(outer(seen).item(), rel=1e-12)
    everything = [unrolled.hypergradient, *unrolled.gradients.values(), *unrolled.stepped.values()]
    assert not any(t.requires_grad for v in everything for t in leaves(v))


def test_the_inner_learning_rate_is_in_the_product() -> None:
    """w' = w - lr 2 (w - a): d w'^2 / da = 2 w' 2 lr."""
    for lr in (0.1, 0.01):
        levels = [Level("w", lambda v: (v["w"] - v["a"]).square().sum(), lr)]
        variables = {"w": torch.tensor([2.0]).double(), "a": torch.tensor([5.0]).double()}
        stepped = 2 + 2 * lr * 3
        for mode in MODES:
            found = hypergradient(levels, lambda v: v["w"].square().sum(), variables, "a", mode)
            assert found.item() == pytest.approx(2 * stepped * 2 * lr)


def test_difference_in_float32_is_good_to_a_thousandth() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3)
    levels = [Level("w", lambda v: (torch.tanh(x @ v["w"]) * v["a"] - 1).square().mean(), 0.3)]
    start = {"w": torch.randn(3), "a": torch.tensor(0.7)}
    difference, exact = (
        hypergradient(levels, lambda v: v["w"].square().sum(), start, "a", mode)
        for mode in ("finite_difference", "exact")
    )
    assert difference.dtype == torch.float32
    assert relative_error(difference, exact) < 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_nothing_that_was_passed_is_changed(mode: Any) -> None:
    levels, outer, variables = problem(0, 3, direct=True, as_dict=False)
    before = [t.clone() for v in variables.values() for t in leaves(v)]
    rng = torch.get_rng_state()
    hypergradient(levels, outer, variables, "a", mode)
    after = [t for v in variables.values() for t in leaves(v)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(t.grad is None and not t.requires_grad for t in after)
    assert torch.equal(torch.get_rng_state(), rng)


def test_both_halves_of_a_difference_draw_the_same_numbers() -> None:
    def loss(v: Any) -> Tensor:
        noise = torch.randn(50, dtype=torch.float64)
        return (v["w"] * noise - v["a"] ** 2).square().mean()

    levels = [Level("w", loss, 0.3)]
    variables = {"w": torch.ones(50).double(), "a": torch.tensor([0.7]).double()}
    found = {}
    for mode in MODES:
        torch.manual_seed(0)
        found[mode] = hypergradient(levels, lambda v: v["w"].sum(), variables, "a", mode)
    for mode in MODES:
        assert relative_error(found[mode], found["exact"]) < TOLERANCE[mode], mode


@pytest.mark.parametrize(("mode", "calls"), [("finite_difference", 3), ("one_sided", 2)])
def test_a_level_sets_the_root_mean_square_of_its_displacement(mode: Any, calls: int) -> None:
    seen: list[Tensor] = []

    def loss(v: Any) -> Tensor:
        seen.append(v["w"].detach().clone())
        return (v["w"] * v["a"]).square().sum()

    start = {"w": torch.zeros(4, 25).double(), "a": torch.ones(4, 25).double()}
    level = Level("w", loss, 0.1, finite_difference_step=0.02)
    hypergradient([level], lambda v: (v["w"] - 1).square().sum(), start, "a", mode)
    assert len(seen) == calls
    for displaced in seen[1:]:
        assert displaced.square().mean().sqrt().item() == pytest.approx(0.02)


def batch_norm_levels(depth: int, normalise: Any = nn.functional.batch_norm) -> tuple[Any, ...]:
    torch.manual_seed(0)
    x = torch.randn(6, 3, dtype=torch.float64)

    def loss(i: int) -> Any:
        def of(v: Any) -> Tensor:
            h = normalise(x * v[f"w{i}"], None, None, training=True)
            rest = sum((v[f"w{j}"].sum() for j in range(i)), torch.zeros((), dtype=x.dtype))
            return (h * v["a"] + rest).square().mean()

        return of

    variables = {f"w{i}": torch.randn(3).double() for i in range(depth)}
    variables["a"] = torch.randn(3).double()
    return [Level(f"w{i}", loss(i), 0.1) for i in range(depth)], variables


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_batch_norm_in_training_mode(depth: int, mode: Any) -> None:
    levels, variables = batch_norm_levels(depth)

    def outer(v: Any) -> Tensor:
        return (v[f"w{depth - 1}"] * v["a"]).square().sum()

    truth = brute_force_hypergradient(levels, outer, variables, "a")
    found = hypergradient(levels, outer, variables, "a", mode)
    assert relative_error(found, truth) < TOLERANCE[mode]


def test_fused_batch_norm_in_three_exact_levels_is_refused_by_name() -> None:
    def fused(x: Tensor, mean: None, var: None, training: bool) -> Tensor:
        return torch.batch_norm(x, None, None, mean, var, training, 0.1, 1e-5, False)

    levels, variables = batch_norm_levels(3, fused)
    with pytest.raises(InputError, match=r"level w0 runs NativeBatchNorm"):
        hypergradient(levels, lambda v: v["w2"].sum(), variables, "a", mode="exact")


def test_primitive_batch_norm_equals_the_fused_one() -> None:
    torch.manual_seed(0)
    for module, x in (
        (nn.BatchNorm2d(3).double(), torch.randn(4, 3, 5, 5, dtype=torch.float64)),
        (nn.BatchNorm1d(3, affine=False).double(), torch.randn(4, 3, dtype=torch.float64)),
    ):
        expected = module(x)
        fixed = module.eval()(x)
        module.train()
        before = {k: t.clone() for k, t in module.state_dict().items()}
        with PrimitiveBatchNorm():
            assert torch.allclose(module(x), expected, rtol=1e-12, atol=1e-12)
        moved = {k: t.clone() for k, t in module.state_dict().items()}
        module.load_state_dict(before)
        module(x)  # the fused one
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(moved[name], tensor)
        module.load_state_dict(before)
        with PrimitiveBatchNorm():
            assert torch.equal(module.eval()(x), fixed)  # with fixed statistics: the usual one


def test_a_module_as_a_function_leaves_its_statistics_and_starts_from_them() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {k: t.clone() for k, t in module.state_dict().items()}
    function = as_function(module)
    function({}, torch.randn(8, 2))
    assert all(torch.equal(t, before[k]) for k, t in module.state_dict().items())
    module.eval()
    x, zero = torch.randn(8, 2), {"0.weight": torch.zeros(3, 2)}
    module[0].weight.data.zero_()
    torch.testing.assert_close(function(zero, x), module(x))


def test_a_loss_that_is_cut_off_from_its_variable_is_named() -> None:
    w = torch.ones(1)
    level = Level("w", lambda v: v["w"].detach().sum(), 0.1)
    with pytest.raises(InputError, match="the loss of level w is cut off from its variable"):
        hypergradient([level], lambda v: v["w"].sum(), {"w": w, "a": w}, "a")


def test_bad_input_is_named() -> None:
    level = Level("w", lambda v: v["w"].sum(), 0.1)
    w = torch.ones(1)
    for levels, variables, wrt, message in (
        ([level, level], {"w": w, "a": w}, "a", "share a name"),
        ([level], {"a": w}, "a", "there is no variable 'w'"),
        ([level], {"w": w}, "a", "there is no variable 'a'"),
        ([level], {"w": w, "a": w}, "w", "which a level moves"),
    ):
        with pytest.raises(InputError, match=message):
            hypergradient(levels, lambda v: v["w"].sum(), variables, wrt)
    with pytest.raises(InputError, match="return a scalar"):
        hypergradient([level], lambda v: torch.ones(2) * v["w"], {"w": w, "a": w}, "a")
    with pytest.raises(
        InputError, match="pass one of finite_difference, one_sided, inner_product, forw"
    ):
        hypergradient([level], lambda v: v["w"].sum(), {"w": w, "a": w}, "a", mode="fast")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_found(bad: float) -> None:
    tensors = [torch.ones(2, 3), torch.zeros(4, dtype=torch.int64), torch.ones(2).half()]
    assert all_finite(tensors)
    tensors[0][1, 2] = bad
    assert not all_finite(tensors)


@pytest.mark.parametrize("mode", MODES)
def test_several_outer_losses_share_steps_and_random_numbers(mode: Any) -> None:
    """What is drawn in a step or in an outer loss is the same for each of them."""
    calls = []

    def loss(v: Any) -> Tensor:
        calls.append(1)
        return (v["w"] - torch.rand((), dtype=torch.float64) * v["a"]).square()

    def outer(v: Any) -> Tensor:
        return v["w"].square() * torch.rand((), dtype=torch.float64)

    start = {
        name: torch.tensor(value, dtype=torch.float64) for name, value in (("w", 1.0), ("a", 3.0))
    }
    torch.manual_seed(0)
    alone = unroll([Level("w", loss, lr=0.25)], outer, start, "a", mode)
    once = len(calls)
    calls.clear()
    torch.manual_seed(0)
    both = unroll_each([Level("w", loss, lr=0.25)], [outer, outer], start, "a", mode)
    for one in both:
        assert one.hypergradient.item() == pytest.approx(alone.hypergradient.item(), rel=1e-9)
        assert one.outer.item() == alone.outer.item()
    if mode in ("inner_product", "exact"):
        assert len(calls) == once == 1
