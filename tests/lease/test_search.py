"""Steps of a search: what moves, what does not, and what happens to bad numbers."""

import copy
from typing import Any

import pytest
import torch
from tests.helpers.lease_nets import SmoothReLU, audience, batch, declared, relative_error, supernet
from torch import nn

from selfexplain.errors import InputError
from selfexplain.hypergradients import hypergradient, unroll, unroll_each
from selfexplain.lease import (
    DARTS,
    SANAS,
    ArchitectureSearch,
    LeaSE,
    LeaSEOptions,
    Rates,
    SearchDivergedError,
)
from selfexplain.lease.lease import (
    bounded,
    magnitude,
    normalised,
    shown_to_audience,
    shuffled,
    straight_through_sign,
)
from selfexplain.lease.masks import ExplainerMaps, soft_mask

SEARCHES: dict[str, Any] = {
    "darts1": lambda **k: DARTS(supernet(), order=1, **k),
    "darts2": lambda **k: DARTS(supernet(), order=2, **k),
    "sanas": lambda **k: SANAS(supernet(), **k),
    "lease": lambda **k: LeaSE(supernet(), audience(), **k),
    "lease, shuffled, two steps": lambda **k: LeaSE(
        supernet(),
        audience(),
        options=LeaSEOptions(control="shuffled_delta", explanation_steps=2),
        **k,
    ),
}
SEARCHES |= {
    f"lease, {name}": lambda options=options, **k: LeaSE(
        supernet(), audience(), options=LeaSEOptions(**options), **k
    )
    for name, options in {
        "masked": {"shown": "soft_mask", "audience_inverse": "neumann", "neumann_terms": 2},
        "cam": {"shown": "soft_mask", "explanation": "cam"},
        "squared": {"shown": "soft_mask", "explanation": "squared_gradients"},
    }.items()
}
SEARCHES["lease, normalised"] = lambda **k: LeaSE(
    supernet(), audience(), options=LeaSEOptions(coupling="normalised", share=0.5), **k
)
each_search = pytest.mark.parametrize("name", SEARCHES)


def everything(search: ArchitectureSearch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []

    def collect(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value.clone())
        elif isinstance(value, dict):
            for item in value.values():
                collect(item)

    collect(search.state_dict())
    return found


@each_search
def test_a_step_moves_weights_and_architecture(name: str) -> None:
    search = SEARCHES[name]()
    before = [t.detach().clone() for t in search.architecture.values()]
    weights = [
        p.clone() for learner in search.learners.values() for p in learner.module.parameters()
    ]
    metrics = search.step(batch(2), batch(3))
    assert {"explainer", "validation"} <= set(metrics)
    assert all(0 < value < 100 for value in metrics.values())
    moved = list(search.architecture.values())
    assert not any(torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    after = [p for learner in search.learners.values() for p in learner.module.parameters()]
    # An operation's gradient may vanish; not those of nearly all.
    assert sum(torch.equal(a, b) for a, b in zip(weights, after, strict=True)) < len(after) / 10
    assert all(p.grad is None for p in after)


@each_search
def test_in_a_warm_up_the_architecture_rests_and_validation_images_are_not_seen(name: str) -> None:
    search, other = SEARCHES[name](), SEARCHES[name]()
    before = {k: t.detach().clone() for k, t in search.architecture.items()}
    metrics = search.step(batch(2), batch(3), move_architecture=False)
    other.step(batch(2), batch(4), move_architecture=False)
    assert "validation" not in metrics
    assert all(torch.equal(t, before[k]) for k, t in search.architecture.items())
    pairs = zip(everything(search), everything(other), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("mode", [None, "inner_product", "finite_difference", "exact"])
def test_the_weights_and_statistics_move_as_in_plain_training(mode: Any) -> None:
    """Against a loop that trains explainer and audience by the book."""
    rates = Rates(clip=1e9)
    moves = mode is not None  # the architecture; else a step of a warm-up
    options = LeaSEOptions(shown="emphasis", gamma=0.5, eps=0.1, step_size=0.1, mode=mode)
    net, listener = supernet(), audience()
    explained = audience()  # holds the second set of statistics
    search = LeaSE(copy.deepcopy(net), copy.deepcopy(listener), options=options, rates=rates)
    architecture = {k: t.detach().clone() for k, t in search.architecture.items()}
    optimizers = [
        torch.optim.SGD(m.parameters(), lr, momentum=0.9, weight_decay=3e-4)
        for m, lr in ((net, rates.lr), (listener, rates.audience_lr))
    ]
    (x, y), cross_entropy = batch(2), nn.functional.cross_entropy
    loss = cross_entropy(net(x, architecture), y)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    stepped = copy.deepcopy(net)
    with torch.no_grad():
        for p, g in zip(stepped.parameters(), gradients, strict=True):
            p.sub_(rates.lr * g)
    z = torch.zeros_like(x, requires_grad=True)
    logits = stepped(x + z, architecture)
    (g,) = torch.autograd.grad(cross_entropy(logits, logits.argmax(1), reduction="sum"), z)
    delta = bounded(options.step_size * normalised(g), options.eps)
    explained.load_state_dict(listener.state_dict())
    shared = dict(listener.named_parameters())
    clean = cross_entropy(listener(x), y)
    shown = shown_to_audience(x, delta, options.eps, "emphasis")
    statistics = dict(explained.named_buffers())
    logits = torch.func.functional_call(listener, {**shared, **statistics}, shown)
    (clean + 0.5 * cross_entropy(logits, y)).backward()
    for p, g in zip(net.parameters(), gradients, strict=True):
        p.grad = g
    for optimizer in optimizers:
        optimizer.step()

    metrics = search.step((x, y), batch(3), move_architecture=moves)

    assert metrics["explainer"] == pytest.approx(loss.item())
    for module, name in ((net, "explainer"), (listener, "audience")):
        found = search.learners[name].module.state_dict()
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(found[key], tensor, msg=f"{name} {key}")
    for key, tensor in statistics.items():
        torch.testing.assert_close(search.explained_statistics[key], tensor)
    assert not torch.equal(
        search.explained_statistics["1.running_mean"],
        search.learners["audience"].module.state_dict()["1.running_mean"],
    )


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_path": "explainer_only"},
        {"gradient_path": "no_explanation"},
        {"control": "random_delta"},
    ],
    ids=str,
)
def test_a_search_whose_explanation_is_cut_walks_the_path_of_darts(options: dict[str, Any]) -> None:
    darts = DARTS(supernet(), order=2, mode="inner_product")
    lease = LeaSE(supernet(), audience(), options=LeaSEOptions(**options))
    for seed in (2, 4, 6):
        darts.step(batch(seed), batch(seed + 1))
        lease.step(batch(seed), batch(seed + 1))
    assert torch.equal(darts.architecture["cell"], lease.architecture["cell"])
    full = LeaSE(supernet(), audience())
    full.step(batch(2), batch(3))
    full.step(batch(4), batch(5))
    full.step(batch(6), batch(7))
    assert not torch.equal(darts.architecture["cell"], full.architecture["cell"])


@each_search
def test_a_restored_search_continues_bit_for_bit(name: str) -> None:
    search = SEARCHES[name]()
    search.step(batch(2), batch(3))
    saved = copy.deepcopy(search.state_dict())
    search.set_progress(0.5)
    search.step(batch(4), batch(5))
    other = SEARCHES[name](seed=9)
    other.load_state_dict(saved)
    other.set_progress(0.5)
    other.step(batch(4), batch(5))
    pairs = list(zip(everything(search), everything(other), strict=True))
    assert len(pairs) > 10
    assert all(torch.equal(a, b) for a, b in pairs)


@each_search
def test_users_random_numbers_are_as_they_were(name: str) -> None:
    search = SEARCHES[name]()
    state = torch.get_rng_state()
    search.step(batch(2), batch(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_equal_seeds_give_equal_searches_and_others_do_not() -> None:
    searches = [LeaSE(supernet(), audience(), seed=seed) for seed in (0, 0, 1)]
    first, second, third = (s.architecture["cell"] for s in searches)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_the_learning_rate_falls_along_a_cosine() -> None:
    search = LeaSE(supernet(), audience(), rates=Rates(lr=0.1, audience_lr=0.2, lr_min=0.0))
    for done, factor in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        search.set_progress(done)
        assert search.learners["explainer"].lr == pytest.approx(0.1 * factor)
        assert search.learners["audience"].lr == pytest.approx(0.2 * factor)


def test_steps_that_are_not_finite_are_skipped_counted_and_at_last_stop_the_search() -> None:
    search = LeaSE(supernet(), audience())
    x, y = batch(3)
    bad = (torch.full_like(x, float("nan")), y)
    before = [t.detach().clone() for t in search.architecture.values()]
    weights = [p.clone() for p in search.supernet.parameters()]
    for _ in range(4):
        search.step(batch(2), bad)
    assert search.skipped == 4
    after = list(search.architecture.values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(weights, search.supernet.parameters(), strict=True)
    )
    search.step(batch(2), batch(3))  # a good one ends the row
    for _ in range(4):
        search.step(batch(2), bad)
    with pytest.raises(SearchDivergedError, match="5 steps in a row were not finite"):
        search.step(batch(2), bad)


@pytest.mark.parametrize("name", ["darts2", "sanas", "lease"])
def test_a_skipped_step_leaves_weights_and_statistics(name: str) -> None:
    search = SEARCHES[name]()
    before = everything(search)
    x, y = batch(2)
    search.step((torch.full_like(x, float("inf")), y), batch(3))
    assert search.skipped == 1
    after = everything(search)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_frozen_parameters_stay() -> None:
    listener = audience()
    listener[0].requires_grad_(False)
    before = listener[0].weight.clone()
    search = LeaSE(supernet(), listener)
    search.step(batch(2), batch(3))
    assert torch.equal(listener[0].weight, before)
    assert not torch.equal(listener[3].weight, audience()[3].weight)


def test_differences_see_the_same_dropout_in_every_call() -> None:
    torch.manual_seed(0)
    listener = nn.Sequential(*audience()[:8], nn.Dropout(0.5), audience()[8])
    found = {}
    modes: list[Any] = ["inner_product", "finite_difference", "one_sided"]
    for mode in modes:
        search = LeaSE(supernet(), listener, rates=Rates(audience_lr=0.1))
        with SmoothReLU():
            step, variables = declared(search)
            torch.manual_seed(3)
            found[mode] = hypergradient(step.levels, step.outer, variables, "architecture", mode)
    for mode in modes[1:]:
        assert relative_error(found[mode], found["inner_product"]) < 1e-4


def test_an_audience_of_other_classes_is_refused_without_a_trace() -> None:
    listener = audience(classes=4)
    before = {k: t.clone() for k, t in listener.state_dict().items()}
    search = LeaSE(supernet(), listener)
    with pytest.raises(InputError, match=r"explainer returns \(2, 3\) and the audience \(2, 4\)"):
        search.step(batch(2), batch(3))
    assert all(torch.equal(t, before[k]) for k, t in listener.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, "eps is 0; pass a number above 0"),
        ({"eps": -1.0}, "eps is -1"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"lambda_": -1.0}, "lambda is -1; pass a number of at least 0"),
        ({"gamma": -0.5}, "gamma is -0.5"),
        ({"lambda_": 0.0, "gamma": 0.0}, "no explanation reaches the architecture"),
        ({"gamma": 0.0}, "no explanation reaches the architecture"),
        ({"explanation_steps": 0}, "explanation_steps is 0"),
        ({"step_size": 0.0}, "step_size is 0"),
        ({"share": -1.0}, "share is -1; pass a number above 0"),
        ({"coupling_momentum": 1.0}, "coupling_momentum is 1"),
        (
            {"coupling": "normalised", "gradient_path": "explainer_only"},
            "the audience has no part to normalise",
        ),
        ({"tau": 1.0}, "tau is the softness of a soft mask, but shown is product"),
        ({"tau": 0.0, "shown": "soft_mask"}, "tau is 0; pass a number above 0"),
        (
            {"explanation": "cam"},
            "explanation cam is a map of evidence, not a pert",
        ),
        (
            {"explanation": "squared_gradients", "shown": "soft_mask", "control": "random_delta"},
            "control random_delta takes the place of the explanation",
        ),
        (
            {"explanation": "cam", "shown": "soft_mask", "eps": 0.1, "explanation_steps": 2},
            "does not look at eps, explanation_steps; leave out",
        ),
        ({"neumann_terms": 1}, "neumann_terms is 1; pass"),
        (
            {"audience_inverse": "neumann", "mode": "exact"},
            "mode exact differentiates through the one step of each level and has no Neumann",
        ),
        (
            {"audience_inverse": "neumann", "gradient_path": "explainer_only"},
            "nothing depends on the audience's optimum",
        ),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LeaSEOptions(**options)
    LeaSEOptions(lambda_=0.0, gradient_path="explainer_only")


def test_bad_rates_are_named() -> None:
    with pytest.raises(InputError, match="architecture_lr is 0; pass a number above 0"):
        Rates(architecture_lr=0.0)
    with pytest.raises(InputError, match="momentum is -1"):
        Rates(momentum=-1.0)
    with pytest.raises(InputError, match="gradient_path is explainer_only"):
        SANAS(supernet(), options=LeaSEOptions(gradient_path="explainer_only"))


def test_what_stands_in_for_an_explanation() -> None:
    g = torch.tensor([[[[3.0, -0.1]]]], requires_grad=True)
    assert straight_through_sign(g).tolist() == [[[[1.0, -1.0]]]]
    assert torch.autograd.grad(straight_through_sign(g).sum(), g)[0].abs().sum() > 0
    assert magnitude(torch.full((1, 1, 1, 2), -4.0)).tolist() == [[[[1.0, 1.0]]]]
    delta, order = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[1, 0]])
    assert shuffled(delta, order).tolist() == [[[[2.0, 1.0]]]]


def test_the_parts_of_the_outer_loss_add_up_to_its_gradient() -> None:
    step, variables = declared(LeaSE(supernet(), audience()))
    parts, _ = declared(LeaSE(supernet(), audience(), options=LeaSEOptions(coupling="normalised")))
    assert parts.audience_outer is not None
    whole = unroll(step.levels, step.outer, variables, "architecture", "inner_product")
    each = unroll_each(
        parts.levels,
        [parts.outer, parts.audience_outer],
        variables,
        "architecture",
        "inner_product",
    )
    direct, through = (one.hypergradient["cell"] for one in each)
    torch.testing.assert_close(direct + through, whole.hypergradient["cell"], rtol=1e-10, atol=0)
    assert float(sum(one.outer for one in each)) == pytest.approx(float(whole.outer), rel=1e-12)


@pytest.mark.parametrize("mode", ["inner_product", "finite_difference", "exact"])
def test_a_normalised_part_has_its_share_of_the_direct_ones_size(mode: Any) -> None:
    options = LeaSEOptions(coupling="normalised", share=0.25, coupling_momentum=0.5, mode=mode)
    search = LeaSE(supernet(), audience(), options=options)
    step, variables = declared(search)
    assert step.audience_outer is not None
    direct, through = (
        hypergradient(step.levels, outer, variables, "architecture", mode)["cell"]
        for outer in (step.outer, step.audience_outer)
    )
    coupled = search.coupled
    coupled.update({"cell": direct}, {"cell": through})
    joined = coupled.join({"cell": direct}, 0.25)["cell"]
    assert float((joined - direct).norm() / direct.norm()) == pytest.approx(0.25)
    assert torch.cosine_similarity((joined - direct).flatten(), through.flatten(), 0) > 1 - 1e-9
    coupled.update({"cell": 3 * direct}, {"cell": -through})  # a later step
    later = coupled.join({"cell": 3 * direct}, 0.25)["cell"] - 3 * direct
    sizes = (0.25 * 1 + 0.5 * 3) / (0.25 + 0.5) * direct.norm() / through.norm()
    mean = (0.25 * through - 0.5 * through) / (0.25 + 0.5)
    torch.testing.assert_close(later, 0.25 * sizes * mean, rtol=1e-9, atol=1e-12)


def test_sanas_has_nothing_to_couple() -> None:
    with pytest.raises(InputError, match="nothing to couple; pass coupling weighted"):
        SANAS(supernet(), options=LeaSEOptions(coupling="normalised"))


def test_a_soft_mask_by_its_definition() -> None:
    """By a loop over images; adding to the evidence, or multiplying it, changes nothing."""
    torch.manual_seed(0)
    evidence = torch.randn(3, 1, 4, 5, dtype=torch.float64).requires_grad_()
    mask = soft_mask(evidence, tau=0.7)
    for e, found in zip(evidence.detach().flatten(1), mask.flatten(1), strict=True):
        median = sorted(e.tolist())[9]  # of 20, the lower of the two in the middle
        spread = sum(abs(float(one) - median) for one in e) / 20
        expected = 1 / (1 + torch.exp(-(e - median) / (0.7 * spread)))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(soft_mask(3 * evidence + 2, 0.7), mask, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad((mask * torch.randn_like(mask)).sum(), evidence)
    assert gradient.sum((1, 2, 3)).abs().max() < 1e-12 * gradient.abs().max() * 20
    flat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_mask(flat, 0.5)[0, 0, 0, 0], flat)
    assert torch.equal(soft_mask(flat, 0.5), torch.full_like(flat, 0.5))
    assert gradient.isfinite().all()


def test_class_activation_maps_of_variables_are_those_of_the_model() -> None:
    net = supernet().eval()
    (x, y), architecture = batch(2), net.new_architecture()
    architecture = {name: tensor.double() for name, tensor in architecture.items()}
    before = {k: t.clone() for k, t in net.state_dict().items()}
    weights = {name: 2 * p.detach() for name, p in net.named_parameters()}
    found = ExplainerMaps(net)(
        {"explainer": weights, "architecture": architecture}, x, lambda logits: y
    )
    assert all(torch.equal(t, before[k]) for k, t in net.state_dict().items())
    net.load_state_dict({**before, **weights})
    features = []
    pool, head = (
        next(m for m in net.modules() if isinstance(m, kind))
        for kind in (nn.AdaptiveAvgPool2d, nn.Linear)
    )
    hook = pool.register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    net(x, architecture)
    hook.remove()
    maps = torch.einsum("bf,bfhw->bhw", head.weight[y], features[0])[:, None]
    expected = nn.functional.interpolate(maps, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected)
    with pytest.raises(InputError, match="pass larger images, or explanation attack or sq"):
        ExplainerMaps(net)(
            {"explainer": weights, "architecture": architecture}, x[..., :4, :4], lambda logits: y
        )
