"""The architecture's gradient through the real levels, in float64, against differences."""

import functools
from typing import Any

import pytest
import torch
from tests.helpers.lease_nets import (
    SmoothReLU,
    audience,
    batch,
    declared,
    relative_error,
    slopes,
    supernet,
)

from selfexplain.hypergradients import Level, brute_force_hypergradient, hypergradient, unroll
from selfexplain.hypergradients.oracle import composed
from selfexplain.lease import DARTS, SANAS, LeaSE, LeaSEOptions, Rates

pytestmark = pytest.mark.slow

EPS = LeaSEOptions().eps  # explanations without a step do not look at it
RATES = Rates(lr=0.1, audience_lr=0.1)
TOLERANCE = {
    "exact": 1e-7,
    "inner_product": 1e-7,
    "forward_over_reverse": 1e-7,
    "finite_difference": 1e-4,
    "one_sided": 1e-4,
}


SOFT_MASKS: list[dict[str, Any]] = [
    {"shown": "soft_mask", "explanation": explanation, "eps": EPS, "step_size": EPS}
    for explanation in ("cam", "squared_gradients")
]


def lease(dtype: torch.dtype = torch.float64, **options: Any) -> LeaSE:
    return LeaSE(
        supernet().to(dtype),
        audience().to(dtype),
        options=LeaSEOptions(**({"eps": 0.2, "step_size": 0.2} | options)),
        rates=RATES,
        std_C=torch.tensor([0.7]),
    )


@functools.cache
def brute_force(path: Any) -> Any:
    """Differences know of no mode: all modes share them."""
    with SmoothReLU():
        step, variables = declared(lease(gradient_path=path))
        return brute_force_hypergradient(step.levels, step.outer, variables, "architecture")


@pytest.mark.parametrize("mode", TOLERANCE)
@pytest.mark.parametrize("path", ["full", "explainer_only"])
def test_every_mode_equals_brute_force_on_the_real_levels(path: Any, mode: Any) -> None:
    with SmoothReLU():
        step, variables = declared(lease(gradient_path=path))
        found = hypergradient(step.levels, step.outer, variables, "architecture", mode)
    assert relative_error(found, brute_force(path)) < TOLERANCE[mode]


def test_without_the_path_through_the_explanation_it_is_held_fixed() -> None:
    """`no_explanation` against differences of the map whose delta does not move."""
    with SmoothReLU():
        step, variables = declared(lease(gradient_path="no_explanation"))
        found = hypergradient(step.levels, step.outer, variables, "architecture", "inner_product")
        delta = unroll(step.levels, step.outer, variables, "architecture").stepped["delta_1"]
        held = [level for level in step.levels if level.name != "delta_1"]
        variables["delta_1"] = delta
        truth = brute_force_hypergradient(held, step.outer, variables, "architecture")
    assert relative_error(found, truth) < TOLERANCE["inner_product"]


@pytest.mark.parametrize(
    "options",
    [
        {"attack": "plain"},
        {"attack": "plain", "step_size": 3.0},
        {"explanation_steps": 2},
        {"target": "label"},
        {"shown": "emphasis"},
        {"shown": "magnitude"},
        {"gamma": 3.0, "lambda_": 0.3},
        {"control": "shuffled_delta"},
        {"control": "saliency"},
        {"control": "random_delta"},
        {"shown": "soft_mask"},
        {"shown": "soft_mask", "tau": 2.0, "explanation_steps": 2, "target": "label"},
        {"shown": "soft_mask", "control": "saliency"},
        *SOFT_MASKS,
        {**SOFT_MASKS[0], "target": "label", "control": "shuffled_delta"},
        {**SOFT_MASKS[1], "target": "label", "control": "shuffled_delta"},
    ],
    ids=str,
)
def test_every_option_is_in_the_gradient(options: dict[str, Any]) -> None:
    with SmoothReLU():
        step, variables = declared(lease(**options))
        found = hypergradient(step.levels, step.outer, variables, "architecture", "inner_product")

        def value(architecture: Any) -> Any:
            return composed(step.levels, step.outer, {**variables, "architecture": architecture})

        # A shorter step where another pixel may become the median, which bends the function.
        step_length = 1e-5 if options.get("shown") == "soft_mask" else 1e-4
        for along, slope in slopes(value, variables["architecture"], step=step_length):
            derivative = sum(float((found[k] * along[k]).sum()) for k in along)
            assert derivative == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("options", [{"shown": "soft_mask"}, *SOFT_MASKS], ids=str)
def test_a_soft_mask_reaches_the_architecture_in_every_mode(options: dict[str, Any]) -> None:
    with SmoothReLU():
        step, variables = declared(lease(**options))
        found = {
            mode: hypergradient(step.levels, step.outer, variables, "architecture", mode)
            for mode in TOLERANCE
        }
        cut, start = declared(lease(**options, gradient_path="no_explanation"))
        alone = hypergradient(cut.levels, cut.outer, start, "architecture", "inner_product")
        darts, _ = declared(DARTS(supernet(), order=2, rates=RATES))
        expected = hypergradient(darts.levels, darts.outer, start, "architecture", "exact")
    for mode, one in found.items():
        assert relative_error(one, found["inner_product"]) < TOLERANCE[mode], mode
    assert relative_error(found["inner_product"], alone) > 1e-5  # something came through
    assert relative_error(alone, expected) < 1e-12


def test_an_audience_that_is_unrolled_further() -> None:
    """Against the series with the audience's Hessian written out."""
    terms = 3
    with SmoothReLU():
        step, variables = declared(lease())
        options = {"audience_inverse": "neumann", "neumann_terms": terms}
        series, _ = declared(lease(**options))
        found = {
            mode: hypergradient(series.levels, series.outer, variables, "architecture", mode)
            for mode in ("inner_product", "forward_over_reverse", "finite_difference")
        }
        before = unroll(step.levels, step.outer, variables, "architecture", "inner_product")
        *_, audience_level = series.levels
        names = list(variables["audience"])
        shapes = [t.shape for t in variables["audience"].values()]
        flat = torch.cat([t.flatten() for t in variables["audience"].values()])
        seen = {**variables, **before.stepped}

        def of_flat(loss: Any) -> Any:
            def value(w: torch.Tensor) -> torch.Tensor:
                parts = w.split([shape.numel() for shape in shapes])
                named = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
                return loss({**seen, "audience": named})

            return value

        hessian = torch.autograd.functional.hessian(of_flat(audience_level.loss), flat)
        stepped = torch.cat([t.flatten() for t in before.stepped["audience"].values()])
        adjoint = torch.autograd.functional.jacobian(of_flat(step.outer), stepped)
        shrink = torch.eye(len(flat), dtype=flat.dtype) - RATES.audience_lr * hessian
        powers = [torch.linalg.matrix_power(shrink, k) for k in range(terms)]
        series_of_adjoint = torch.stack(powers).sum(0) @ adjoint

        # the outer loss, with an audience's part of that slope
        def outer(v: Any) -> torch.Tensor:
            explainer_alone = step.outer({**v, "audience": before.stepped["audience"]})
            w = torch.cat([t.flatten() for t in v["audience"].values()])
            return explainer_alone + series_of_adjoint @ w

        expected = hypergradient(step.levels, outer, variables, "architecture", "inner_product")
    for mode, one in found.items():
        assert relative_error(one, expected) < TOLERANCE[mode], mode
    assert relative_error(before.hypergradient, expected) > 1e-5


def test_with_real_relus_where_none_switches() -> None:
    step, variables = declared(lease())
    found = hypergradient(step.levels, step.outer, variables, "architecture", "exact")
    truth = brute_force_hypergradient(step.levels, step.outer, variables, "architecture", step=1e-7)
    assert relative_error(found, truth) < 1e-6  # of rounding: 1e-16 / 1e-7


def test_a_straight_through_sign_steps_to_the_corner_and_passes_the_smooth_gradient() -> None:
    with SmoothReLU():
        step, variables = declared(lease(attack="sign"))
        unrolled = unroll(step.levels, step.outer, variables, "architecture", "exact")
        difference = unroll(step.levels, step.outer, variables, "architecture")
        explainer_only, _ = declared(lease(gradient_path="explainer_only"))
        alone = hypergradient(
            explainer_only.levels, explainer_only.outer, variables, "architecture", "exact"
        )
    z = unrolled.stepped["delta_1"]
    assert isinstance(z, torch.Tensor)
    assert torch.allclose(z.abs(), torch.tensor(0.2).double())
    assert relative_error(difference.hypergradient, unrolled.hypergradient) < 1e-4
    assert relative_error(unrolled.hypergradient, alone) > 1e-4  # something came through


def test_paths_and_controls_that_cut_the_explanation_are_darts() -> None:
    """The architecture reaches the audience through delta alone."""
    darts, variables = declared(DARTS(supernet(), order=2, rates=RATES))
    assert darts.mode is not None
    expected = hypergradient(darts.levels, darts.outer, variables, "architecture", "exact")
    cuts: list[dict[str, Any]] = [
        {"gradient_path": "explainer_only"},
        {"gradient_path": "no_explanation"},
        {"control": "random_delta"},
    ]
    for options in cuts:
        step, start = declared(lease(**options))
        found = hypergradient(step.levels, step.outer, start, "architecture", "exact")
        assert relative_error(found, expected) < 1e-12, options
    step, start = declared(lease())
    full = hypergradient(step.levels, step.outer, start, "architecture", "exact")
    assert relative_error(full, expected) > 1e-4


@pytest.mark.parametrize("path", ["full", "no_explanation"])
def test_sanas_equals_brute_force(path: Any) -> None:
    with SmoothReLU():
        options = LeaSEOptions(eps=0.2, step_size=0.2, gradient_path=path)
        step, variables = declared(SANAS(supernet(), options=options, rates=RATES))
        found = hypergradient(step.levels, step.outer, variables, "architecture", "inner_product")
        levels: list[Level] = list(step.levels)
        if path == "no_explanation":
            delta = unroll(levels, step.outer, variables, "architecture").stepped["delta_1"]
            variables["delta_1"] = delta
            levels = [level for level in levels if level.name != "delta_1"]
        truth = brute_force_hypergradient(levels, step.outer, variables, "architecture")
    assert relative_error(found, truth) < TOLERANCE["inner_product"]


def test_second_order_darts_equals_its_textbook_formula() -> None:
    """grad_A L_val(E') - lr (grad_A L(E + r v) - grad_A L(E - r v)) / 2r, v = grad_E' L_val(E')."""
    search = DARTS(supernet(), order=2, rates=RATES)
    step, variables = declared(search)
    found = hypergradient(step.levels, step.outer, variables, "architecture")
    net = search.supernet
    architecture = {k: t.requires_grad_() for k, t in variables["architecture"].items()}
    (x, y), (xv, yv) = batch(2), batch(3)
    weights = list(net.parameters())
    start = [w.detach().clone() for w in weights]
    cross_entropy = torch.nn.functional.cross_entropy

    def shift(by: float, along: Any) -> None:
        with torch.no_grad():
            for w, s, a in zip(weights, start, along, strict=True):
                w.copy_(s + by * a)

    gradient = torch.autograd.grad(cross_entropy(net(x, architecture), y), weights)
    shift(-RATES.lr, gradient)
    outer = cross_entropy(net(xv, architecture), yv)
    both = torch.autograd.grad(outer, [*weights, architecture["cell"]])
    v, direct = both[:-1], both[-1]
    r = 1e-5 / float(torch.cat([t.flatten() for t in v]).norm())
    halves = []
    for by in (r, -r):
        shift(by, v)
        loss = cross_entropy(net(x, architecture), y)
        halves.append(torch.autograd.grad(loss, architecture["cell"])[0])
    expected = direct - RATES.lr * (halves[0] - halves[1]) / (2 * r)
    assert relative_error(found["cell"], expected) < 1e-6


FLOAT32 = {
    "finite_difference": 1e-3,
    "one_sided": 1e-2,
    "inner_product": 1e-4,
    "forward_over_reverse": 1e-4,
}


@pytest.mark.parametrize("mode", FLOAT32)
def test_accuracy_in_float32(mode: Any) -> None:
    with SmoothReLU():
        step, variables = declared(lease())
        exact = hypergradient(step.levels, step.outer, variables, "architecture", "exact")
        step, start = declared(lease(torch.float32))
        found = hypergradient(step.levels, step.outer, start, "architecture", mode)
    assert all(t.dtype == torch.float32 for t in found.values())
    assert relative_error({k: t.double() for k, t in found.items()}, exact) < FLOAT32[mode]
