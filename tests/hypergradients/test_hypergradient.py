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
from selfexplain.hypergradients.batch_norm import ClosedBatchNorm
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
    return float(((x - y).norm() / y.norm()).detach())


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


def derivatives(normalise: Any, x: Tensor, weight: Any, bias: Any, target: Tensor) -> list[Any]:
    """The output, and first to third derivatives towards x, weight and bias."""
    inputs = [t for t in (x, weight, bias) if t is not None]
    y = normalise(x, weight, bias)
    first = torch.autograd.grad((y.sin() * target).sum(), inputs, create_graph=True)
    scalar = torch.stack([(g.cos() * g).sum() for g in first]).sum()
    fast = torch.autograd.grad(scalar, inputs, retain_graph=True)
    second = torch.autograd.grad(scalar, inputs, create_graph=True)
    third = torch.autograd.grad(torch.stack([g.square().sum() for g in second]).sum(), inputs)
    return [(y,), first, fast, second, third]


def closed(x: Tensor, weight: Any, bias: Any) -> Tensor:
    with ClosedBatchNorm():
        return nn.functional.batch_norm(x, None, None, weight, bias, training=True)


def primitive_batch_norm(
    x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float = 1e-5
) -> Tensor:
    """Normalise (B, C, ...) by the batch's own mean and variance, as BatchNorm does in training.

    Running statistics are neither read nor written.
    """
    across = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    centred = x - x.mean(across, keepdim=True)
    y = centred * (centred.square().mean(across, keepdim=True) + eps).rsqrt()
    if weight_C is not None:
        y = y * weight_C.reshape(shape)
    return y if bias_C is None else y + bias_C.reshape(shape)


@pytest.mark.parametrize("affine", ["none", "scale", "scale and shift"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (2, 3, 3, 2, 2), (7, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_derivatives_of_batch_norm_are_those_of_primitives(
    affine: str, shape: tuple[int, ...], channels_last: bool
) -> None:
    torch.manual_seed(0)
    x = 2 * torch.randn(shape, dtype=torch.float64) + 1
    if channels_last:
        x = x.transpose(1, -1).contiguous().transpose(1, -1)
    weight = torch.randn(3, dtype=torch.float64).requires_grad_() if affine != "none" else None
    bias = torch.randn(3, dtype=torch.float64).requires_grad_() if "shift" in affine else None
    given = x.requires_grad_(), weight, bias, torch.randn(shape, dtype=torch.float64)
    pairs = zip(derivatives(closed, *given), derivatives(primitive_batch_norm, *given), strict=True)
    for order, (found, expected) in enumerate(pairs):
        for a, b in zip(found, expected, strict=True):
            assert relative_error(a, b) < 1e-12, order


@pytest.mark.parametrize("wanted", ["x", "weight", "bias"])
def test_batch_norm_by_one_of_its_gradients_alone(wanted: str) -> None:
    """An adjoint of one of the three first derivatives, which itself may be cut off from x."""
    torch.manual_seed(0)
    inputs = {
        "x": torch.randn(6, 3, 2, 2, dtype=torch.float64).requires_grad_(),
        "weight": torch.randn(3, dtype=torch.float64).requires_grad_(),
        "bias": torch.randn(3, dtype=torch.float64).requires_grad_(),
    }
    for linear in (True, False):  # where linear, the gradient of the output has no graph
        for create_graph in (False, True):
            found = []
            for normalise in (closed, primitive_batch_norm):
                y = normalise(*inputs.values())
                loss = y[..., 0].sum() * 3 if linear else y.exp().mean()
                (g,) = torch.autograd.grad(loss, inputs[wanted], create_graph=True)
                second = [torch.zeros_like(t) for t in inputs.values()]
                if g.requires_grad:
                    second = list(
                        torch.autograd.grad(
                            g.pow(3).sum(),
                            [*inputs.values()],
                            create_graph=create_graph,
                            allow_unused=True,
                            materialize_grads=True,
                        )
                    )
                found.append([g, *second])
            for one, other in zip(*found, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
            assert linear or all(t.abs().sum() > 0 for t in found[0][:2])


def test_batch_norm_keeps_the_bits_of_torch_until_the_first_derivative() -> None:
    for module, x in (
        (nn.BatchNorm2d(3), torch.randn(4, 3, 5, 5)),
        (nn.BatchNorm1d(3, affine=False, momentum=None), torch.randn(4, 3)),
    ):
        found = []
        before = {k: t.clone() for k, t in module.state_dict().items()}
        for mode in (ClosedBatchNorm(), ClosedBatchNorm(cpu_only=True), None):
            module.load_state_dict(before)
            x.requires_grad_()
            with mode or torch.enable_grad():
                y = module(x)
                fixed = module.eval()(x)  # with fixed statistics: the usual one
                module.train()
            gradient = torch.autograd.grad(y.square().sum(), [x, *module.parameters()])
            found.append([y, fixed, *gradient, *[t.clone() for t in module.buffers()]])
        for one in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(one, found[0], strict=True))
    with ClosedBatchNorm(), pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(3)(torch.ones(1, 3, 1, 1))


def test_a_loss_may_use_other_ways_to_differentiate_a_batch_norm() -> None:
    x = torch.randn(6, 3, dtype=torch.float64)

    def value(t: Tensor) -> Tensor:
        return nn.functional.batch_norm(t, None, None, training=True).pow(3).sum()

    expected = torch.func.grad(value)(x)
    with ClosedBatchNorm():
        assert torch.equal(torch.func.grad(value)(x), expected)
        slope = torch.func.jvp(value, (x,), (torch.ones_like(x) * x,))[1]
    torch.testing.assert_close(slope, (expected * x).sum())


def test_what_an_outer_loss_does_not_look_at_is_not_computed() -> None:
    """An outer loss of an early level leaves the later ones' mixed products alone."""
    backwards = dict.fromkeys(("w", "z", "u"), 0)

    def counted(name: str, value: Tensor) -> Tensor:
        """The value; counts mixed products, each of which passes here once more than the step."""

        class Count(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, t: Tensor) -> Tensor:
                return t.clone()

            @staticmethod
            def backward(ctx: Any, g: Tensor) -> Tensor:
                if not torch.is_grad_enabled():
                    backwards[name] += 1
                return g.clone()

        return Count.apply(value)  # type: ignore[no-any-return,no-untyped-call]

    levels = [
        Level("w", lambda v: counted("w", v["w"] * v["a"]).sin().sum(), 0.1),
        Level("z", lambda v: counted("z", v["z"] * v["w"] * v["a"]).cos().sum(), 0.1),
        Level("u", lambda v: counted("u", v["u"] * v["z"]).exp().sum(), 0.1),
    ]
    start = {name: torch.randn(2, dtype=torch.float64) for name in ("w", "z", "u", "a")}
    outers = [lambda v: v["w"].square().sum(), lambda v: v["u"].sum(), lambda v: v["a"].sum()]
    for outer, passes in zip(outers, ((1, 0, 0), (1, 1, 1), (0, 0, 0)), strict=True):
        backwards.update(w=0, z=0, u=0)
        found = hypergradient(levels, outer, start, "a", "inner_product")
        assert tuple(backwards.values()) == passes
        truth = brute_force_hypergradient(levels, outer, start, "a")
        assert relative_error(found, truth) < EXACT
    for mode in MODES:
        nothing = hypergradient(levels, lambda v: torch.ones(()), start, "a", mode)
        assert torch.equal(leaves(nothing)[0], torch.zeros(2))


@pytest.mark.parametrize("mode", MODES)
def test_an_independent_term_is_in_the_step_and_in_no_product(mode: Any) -> None:
    """Against the same term as a part of the loss."""
    x = torch.randn(5, 3, dtype=torch.float64)
    calls = []

    def explained(v: Any) -> Tensor:
        return torch.tanh(x * v["w"] * v["a"]).square().sum()

    def plain(v: Any) -> Tensor:
        calls.append(v["w"].requires_grad)
        return (x @ v["w"]).cos().sum()

    start = {name: torch.randn(3, dtype=torch.float64) for name in ("w", "a")}
    apart = Level("w", explained, 0.1, independent_loss=plain)
    unrolled = unroll([apart], lambda v: v["w"].exp().sum(), start, "a", mode)
    assert calls == [True]
    joined = Level("w", lambda v: explained(v) + plain(v), 0.1)
    expected = unroll([joined], lambda v: v["w"].exp().sum(), start, "a", "exact")
    assert relative_error(unrolled.hypergradient, expected.hypergradient) < TOLERANCE[mode]
    assert relative_error(unrolled.gradients["w"], expected.gradients["w"]) < 1e-12
    assert unrolled.losses["w"].item() == pytest.approx(expected.losses["w"].item())
    truth = brute_force_hypergradient([apart], lambda v: v["w"].exp().sum(), start, "a")
    assert relative_error(expected.hypergradient, truth) < EXACT


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
    for mode in MODES:
        with pytest.raises(InputError, match="the loss of level w is cut off from its variable"):
            hypergradient([level], lambda v: v["w"].sum(), {"w": w, "a": w}, "a", mode)


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


def quadratic() -> tuple[Any, ...]:
    """Loss (v - B a)^T Q (v - B a) / 2, whose argmin is B a; every derivative is in closed form."""
    torch.manual_seed(0)
    root, b_matrix = torch.randn(2, 3, 3, dtype=torch.float64)
    q_matrix = root @ root.T / 3 + 0.1 * torch.eye(3, dtype=torch.float64)
    start = {name: torch.randn(3, dtype=torch.float64) for name in ("v", "a")}

    def loss(v: Any) -> Tensor:
        away = v["v"] - b_matrix @ v["a"]
        return away @ q_matrix @ away / 2

    return loss, q_matrix, b_matrix, start


NEUMANN_MODES: list[Any] = [mode for mode in MODES if mode != "exact"]


@pytest.mark.parametrize("mode", NEUMANN_MODES)
@pytest.mark.parametrize("terms", [1, 2, 10])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_neumann_series_in_closed_form(mode: Any, terms: int, maximize: bool) -> None:
    loss, q_matrix, b_matrix, start = quadratic()
    lr = 0.3
    sign = -1 if maximize else 1
    level = Level("v", lambda v: sign * loss(v), lr, maximize=maximize, neumann_terms=terms)
    found = unroll([level], lambda v: v["v"].pow(3).sum(), start, "a", mode)
    shrink = torch.eye(3, dtype=torch.float64) - lr * q_matrix
    stepped = start["v"] - lr * q_matrix @ (start["v"] - b_matrix @ start["a"])
    adjoint = 3 * stepped.square()
    series = sum(torch.linalg.matrix_power(shrink, k) @ adjoint for k in range(terms))
    assert relative_error(found.hypergradient, lr * b_matrix.T @ q_matrix @ series) < 1e-6
    assert relative_error(found.stepped["v"], stepped) < 1e-12  # the step itself is one step


@pytest.mark.parametrize("mode", NEUMANN_MODES)
def test_at_a_minimum_a_series_is_that_many_steps(mode: Any) -> None:
    """In the middle of a chain: against as many levels of one step each, by brute force."""
    terms, lr = 4, 0.2
    torch.manual_seed(1)
    x = torch.randn(6, 3, dtype=torch.float64)

    def first(v: Any) -> Tensor:
        return (v["w"] * v["a"]).sin().sum()

    def inner(v: Any, name: str) -> Tensor:  # at its minimum in v: v = w a, whatever x
        away = v[name] - v["w"] * v["a"]
        return (x @ away).cosh().mean() + (x @ away).square().mean() * v["a"].square().sum()

    def outer(v: Any, name: str) -> Tensor:
        return (v[name] * v["a"]).exp().sum()

    start: dict[str, Any] = {n: torch.randn(3, dtype=torch.float64) for n in ("w", "a")}
    start["a"] = start["a"] / 2
    before = Level("w", first, 0.1)
    start["v"] = before.step(start) * start["a"]
    series = Level("v", lambda v: inner(v, "v"), lr, neumann_terms=terms)
    found = hypergradient([before, series], lambda v: outer(v, "v"), start, "a", mode)

    steps = []
    for k in range(terms):
        # a level that starts where the one before ended: v_k = v_{k-1} + its own zero, moved
        def loss(v: Any, k: int = k) -> Tensor:
            at = start["v"] + sum(v[f"z{i}"] for i in range(k + 1))
            return inner({**v, "v": at}, "v")

        steps.append(Level(f"z{k}", loss, lr))
    start |= {f"z{k}": torch.zeros(3, dtype=torch.float64) for k in range(terms)}

    def whole(v: Any) -> Tensor:
        return outer({**v, "v": start["v"] + sum(v[f"z{k}"] for k in range(terms))}, "v")

    truth = brute_force_hypergradient([before, *steps], whole, start, "a")
    assert relative_error(found, truth) < {"one_sided": 1e-4}.get(mode, 1e-6)
    one_step = hypergradient(
        [before, Level("v", series.loss, lr)], lambda v: outer(v, "v"), start, "a", mode
    )
    assert relative_error(one_step, truth) > 1e-2


def test_a_series_that_nothing_carries_is_refused() -> None:
    loss, _, _, start = quadratic()
    for wrong, message in (
        ({"neumann_terms": 0}, "neumann_terms of level v is 0; pass at least 1"),
        ({"neumann_terms": 2, "project": torch.tanh}, "has a direction or a projection"),
        ({"neumann_terms": 2, "direction": torch.tanh}, "has a direction or a projection"),
        (
            {"neumann_terms": 2, "independent_loss": loss},
            "make its independent_loss a part of loss",
        ),
    ):
        with pytest.raises(InputError, match=message):
            Level("v", loss, 0.1, **wrong)
    level = Level("v", loss, 0.1, neumann_terms=2)
    with pytest.raises(InputError, match="level v has several neumann_terms; pass inner_product"):
        hypergradient([level], lambda v: v["v"].sum(), start, "a", "exact")
