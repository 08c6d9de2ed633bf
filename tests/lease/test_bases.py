"""What searches stand on: formulas, gradients, and that every search stands on every base."""

import copy
import math
from typing import Any

import pytest
import torch
from tests.helpers.lease_nets import SmoothReLU, audience, batch, relative_error, supernet
from tests.oracles.spaces import plain_logits
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, elu

from selfexplain.errors import InputError
from selfexplain.lease import (
    DARTS,
    SANAS,
    ArchitectureSearch,
    BaseOptions,
    LeaSE,
    LeaSEOptions,
    Rates,
)
from selfexplain.lease.bases import (
    PDARTS,
    Architecture,
    Base,
    BetaDARTS,
    DrNAS,
    best_kept,
    beta_regularizer,
    concentration,
    dirichlet_sample,
    genotype_of_few_skips,
    make_base,
    masked,
)
from selfexplain.spaces import FAMILIES, Supernet, build_supernet
from selfexplain.spaces.genotype import edges_of
from selfexplain.spaces.supernet import MixedOp, set_skip_dropout

BASES = ("plain", "beta_darts", "drnas", "drnas_progressive", "pdarts")
SEARCHES: dict[str, Any] = {
    "darts1": lambda **k: DARTS(supernet(), order=1, **k),
    "darts2": lambda **k: DARTS(supernet(), order=2, mode="inner_product", **k),
    "sanas": lambda **k: SANAS(supernet(), **k),
    "lease": lambda **k: LeaSE(supernet(), audience(), **k),
    "lease, normalised": lambda **k: LeaSE(
        supernet(), audience(), options=LeaSEOptions(coupling="normalised"), **k
    ),
}
each_base = pytest.mark.parametrize("base", BASES[1:4])


def base_of(name: Any) -> Base:
    return make_base(BaseOptions(base=name))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def hypergradient_of(search: ArchitectureSearch) -> dict[str, Tensor]:
    """What a step would hand to the architecture's optimizer."""
    before = {name: t.detach().clone() for name, t in search.architecture.items()}
    search.optimizer = torch.optim.SGD(search.architecture.values(), lr=1.0)  # type: ignore[assignment]
    search.step(batch(2), batch(3))
    return {name: before[name] - t.detach() for name, t in search.architecture.items()}


def test_the_beta_regulariser_holds_each_operation_back_by_its_softmax() -> None:
    cells = {"normal": numbers(14, 8), "reduce": numbers(14, 8, seed=1)}
    edges = {name: t.requires_grad_() for name, t in cells.items()} | {
        "normal_edges": numbers(14).requires_grad_()
    }
    value = beta_regularizer(edges)
    by_hand = sum(float(row.detach().exp().sum().log()) / 14 for t in cells.values() for row in t)
    assert float(value.detach()) == pytest.approx(by_hand)
    found = torch.autograd.grad(value, list(edges.values()), allow_unused=True)
    for tensor, gradient in zip(cells.values(), found, strict=False):
        torch.testing.assert_close(gradient, tensor.detach().softmax(-1) / 14)
    assert found[2] is None


@pytest.mark.parametrize("name", ["darts1", "darts2", "sanas", "lease"])
@pytest.mark.parametrize("done", [0.0, 0.25])
def test_the_penalty_joins_the_gradient_of_every_search(name: str, done: float) -> None:
    plain, beta = SEARCHES[name](), SEARCHES[name](base=BetaDARTS(8.0))
    beta.set_progress(done)
    plain.set_progress(done)
    share = beta.architecture["cell"].detach().softmax(-1) / 6
    difference = hypergradient_of(beta)["cell"] - hypergradient_of(plain)["cell"]
    torch.testing.assert_close(difference, 8 * done * share, rtol=1e-9, atol=1e-12)


def test_no_coupling_takes_the_penalty_for_a_loss() -> None:
    """Else the audience's share would be one of the penalty, which is a multiple of the losses."""
    options = LeaSEOptions(coupling="normalised", share=0.5)
    plain, beta = (
        LeaSE(supernet(), audience(), options=options, base=base)
        for base in (Base(), BetaDARTS(1000.0))
    )
    for search in (plain, beta):
        search.done = 0.5
    share = beta.architecture["cell"].detach().softmax(-1) / 6
    difference = hypergradient_of(beta)["cell"] - hypergradient_of(plain)["cell"]
    torch.testing.assert_close(difference, 500 * share, rtol=1e-9, atol=1e-9)


def test_weights_drawn_have_the_mean_and_the_variance_of_the_dirichlet() -> None:
    generator = torch.Generator().manual_seed(3)
    parameters_O = concentration(torch.tensor([0.5, -0.5, 1.0, -2.0], dtype=torch.float64))
    drawn = dirichlet_sample(parameters_O.expand(20_000, 4), generator)
    mean_O = parameters_O / parameters_O.sum()
    variance_O = mean_O * (1 - mean_O) / (parameters_O.sum() + 1)
    torch.testing.assert_close(drawn.sum(1), torch.ones(20_000, dtype=torch.float64))
    torch.testing.assert_close(drawn.mean(0), mean_O, rtol=0, atol=0.01)
    torch.testing.assert_close(drawn.var(0), variance_O, rtol=0.05, atol=0)
    expected = DrNAS().expected({"cell": torch.tensor([[0.5, -0.5, 1.0, -2.0]]).double()})
    torch.testing.assert_close(expected["cell"].softmax(-1)[0], mean_O)


def test_the_pathwise_gradient_is_on_average_that_of_the_mean() -> None:
    """Of a quadratic function of the weights, whose mean is known in closed form."""
    generator = torch.Generator().manual_seed(4)
    target_O = torch.tensor([0.7, 0.1, 0.2], dtype=torch.float64)
    a_O = torch.tensor([0.3, -0.4, 0.1], dtype=torch.float64, requires_grad=True)
    drawn = dirichlet_sample((elu(a_O) + 1).expand(50_000, 3), generator)
    (sampled,) = torch.autograd.grad((drawn - target_O).square().sum(1).mean(), a_O)
    parameters_O = elu(a_O) + 1
    mean_O = parameters_O / parameters_O.sum()
    second_O = mean_O * (1 - mean_O) / (parameters_O.sum() + 1) + mean_O.square()
    exact = (second_O - 2 * mean_O * target_O + target_O.square()).sum()
    torch.testing.assert_close(sampled, torch.autograd.grad(exact, a_O)[0], rtol=0, atol=0.01)


def chain(search: ArchitectureSearch, order: int) -> Tensor:
    """DARTS's gradient through a draw, by autograd of the whole map from A to the outer loss."""
    net, learner = search.supernet, search.learners["explainer"]
    a_EO = search.architecture["cell"].detach().clone().requires_grad_()
    weights = {n: p.detach().clone().requires_grad_() for n, p in learner.weights.items()}
    users = torch.get_rng_state()
    torch.set_rng_state(search.generator.get_state())
    theta_EO = torch.distributions.Dirichlet(elu(a_EO) + 1).rsample()
    torch.set_rng_state(users)
    kept_EO = search.kept["cell"]
    theta_EO = theta_EO * kept_EO / (theta_EO * kept_EO).sum(1, keepdim=True)
    at = {"cell": theta_EO.clamp_min(1e-300).log()}
    buffers = {n: b.clone() for n, b in net.named_buffers()}
    if order == 2:
        loss = cross_entropy(
            functional_call(net, {**buffers, **weights}, (batch(2)[0], at)), batch(2)[1]
        )
        gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        pairs = zip(weights.items(), gradient, strict=True)
        weights = {name: w - learner.lr * g for (name, w), g in pairs}
    outer = cross_entropy(
        functional_call(net, {**buffers, **weights}, (batch(3)[0], at)), batch(3)[1]
    )
    return torch.autograd.grad(outer, a_EO)[0]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("done", [0.0, 0.5])
def test_a_hypergradient_through_a_draw_is_that_of_the_whole_chain(order: Any, done: float) -> None:
    search = DARTS(
        supernet(), order=order, mode="inner_product", base=DrNAS(progressive=True), seed=1
    )
    with torch.no_grad():
        search.architecture["cell"].copy_(numbers(6, 5))
    search.set_progress(done)
    with SmoothReLU():
        whole = chain(search, order)
        found = hypergradient_of(search)["cell"]
    assert relative_error(found, whole) < 1e-9
    dropped_EO = ~search.kept["cell"]
    assert bool(dropped_EO.any()) == (done == 0.5)
    assert not found[dropped_EO].any()


def test_a_draw_takes_nothing_from_the_users_generator_and_its_own_goes_on() -> None:
    generator, users = torch.Generator().manual_seed(0), torch.get_rng_state()
    first, second = (DrNAS().relax({"cell": numbers(2, 3)}, generator)["cell"] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), users)
    assert not torch.equal(first, second)
    again = DrNAS().relax({"cell": numbers(2, 3)}, torch.Generator().manual_seed(0))
    assert torch.equal(again["cell"], first)


@pytest.mark.parametrize("far", [-500.0, 500.0])
def test_numbers_far_from_zero_still_give_weights_and_gradients(far: float) -> None:
    a_EO = torch.tensor([[0.0, far, 0.0], [far, far, far]], requires_grad=True)
    drawn = DrNAS().relax({"cell": a_EO}, torch.Generator().manual_seed(0))["cell"].softmax(-1)
    assert bool(drawn.isfinite().all())
    (gradient,) = torch.autograd.grad((drawn * torch.arange(3.0)).sum(), a_EO)
    assert bool(gradient.isfinite().all())


def test_operations_are_halved_once_by_their_size_and_stay_so() -> None:
    search = DARTS(supernet(), order=1, base=DrNAS(progressive=True))
    with torch.no_grad():
        search.architecture["cell"].copy_(numbers(6, 5))
    before = search.architecture["cell"].detach().clone()
    search.set_progress(0.49)
    assert bool(search.kept["cell"].all())
    search.set_progress(0.5)
    for row, kept in zip(before, search.kept["cell"], strict=True):
        assert set(row.topk(3).values.tolist()) == set(row[kept].tolist())
    kept = search.kept["cell"].clone()
    with torch.no_grad():
        search.architecture["cell"].copy_(-before)
    search.set_progress(0.75)
    assert torch.equal(search.kept["cell"], kept)
    chosen = search.supernet.genotype(search.expected()).cells["cell"]
    names = [edge.operation for node in chosen.nodes for edge in node]
    best = (-before).masked_fill(~kept, -torch.inf).argmax(1)
    operations = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    assert names == [operations[i] for i in best]


def test_fewer_operations_than_asked_for_stay() -> None:
    kept_EO = torch.tensor([[True, False, False], [True, True, True]])
    best = best_kept(torch.tensor([[0.0, 9.0, 9.0], [1.0, 3.0, 2.0]]), kept_EO, 2)
    assert best.tolist() == [[True, False, False], [False, True, True]]


def test_the_architecture_rests_after_it_was_halved() -> None:
    search = DARTS(supernet(), order=1, base=DrNAS(progressive=True))
    resting = []
    for epoch in range(10):
        search.set_progress(epoch / 10)
        resting.append(search.rests)
    assert resting == [epoch == 5 for epoch in range(10)]
    assert not any(base_of(name).rests(0.5) for name in BASES[:3])


def test_pdarts_goes_through_the_published_stages() -> None:
    """Of 25 epochs each, 10 of which the architecture rests, as their loop counts them."""
    base = PDARTS()
    for stage, (rate, operations, cells) in enumerate(((0.1, 8, 5), (0.4, 5, 11), (0.7, 3, 17))):
        assert base.cells(stage, None) == cells
        for epoch in range(25):
            done = (25 * stage + epoch) / 75
            assert base.stage(done) == (stage, pytest.approx(epoch / 25))
            assert base.most_operations(8, done) == operations
            assert base.rests(done) == (epoch < 10)
            falls = 1 - epoch / 25 if epoch < 10 else math.exp(-0.2 * (epoch - 10))
            assert base.skip_dropout(done) == pytest.approx(rate * falls)
    assert [base.cells(stage, 3) for stage in range(3)] == [3, 7, 10]


def test_every_stage_of_pdarts_has_epochs_in_which_the_architecture_learns() -> None:
    base = PDARTS()
    for epochs in range(6, 40):
        stages = {stage: [] for stage in range(3)}  # type: dict[int, list[bool]]
        for epoch in range(epochs):
            stages[base.stage(epoch / epochs)[0]].append(base.rests(epoch / epochs))
        assert all(not all(resting) for resting in stages.values())


def small_darts() -> Supernet:
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "in_channels": 1, "image_size": 8, "channels": 2, "cells": 3}
    return build_supernet("darts", **sizes).double()


def test_a_stage_begins_with_the_full_learning_rate_and_drops_out() -> None:
    rates = Rates(lr=0.1, lr_min=0.0)
    search = SANAS(small_darts(), base=PDARTS(), rates=rates)
    for done, lr, rate in ((0.0, 0.1, 0.1), (1 / 6, 0.05, 0.1 * math.exp(-0.5)), (1 / 3, 0.1, 0.4)):
        search.set_progress(done)
        for learner in search.learners.values():
            assert learner.lr == pytest.approx(lr)
            mixed = [m for m in learner.module.modules() if isinstance(m, MixedOp)]
            assert [m.skip_dropout for m in mixed] == pytest.approx([rate] * 15)


def test_lease_stands_on_pdarts_and_other_cells_do_not() -> None:
    search = LeaSE(small_darts(), audience(), base=PDARTS())
    search.set_progress(0.8)
    before = {name: t.detach().clone() for name, t in search.architecture.items()}
    torch.manual_seed(0)
    search.step(batch(2), batch(3))
    for name, tensor in search.architecture.items():
        dropped = ~search.kept[name]
        assert int(dropped.sum()) == 14 * 5
        assert not torch.equal(tensor[search.kept[name]], before[name][search.kept[name]])
    cells = search.genotype().cells
    names = [edge.operation for node in cells["normal"].nodes for edge in node]
    assert names.count("skip_connect") <= 2
    with pytest.raises(
        InputError, match="a rate that changes, which a recorded step cannot follow"
    ):
        search.record(lambda compute: compute)
    with pytest.raises(InputError, match="but these are of nasbench201; pass space darts or pcdar"):
        DARTS(supernet(), base=PDARTS())


def test_skip_connections_are_dropped_out_edge_by_edge_in_training_alone() -> None:
    torch.manual_seed(0)
    mixed = MixedOp("darts", 4, edges=2, bundled=True, pool_norms=True).double()
    x_BCHW, weights_EO = numbers(3, 4, 6, 6), numbers(2, 8, seed=1).softmax(-1)
    plain = [terms[0] for terms in copy.deepcopy(mixed)(x_BCHW, weights_EO)]
    set_skip_dropout(nn.ModuleList([mixed]), 0.3)
    torch.manual_seed(4)
    found = [terms[0] for terms in copy.deepcopy(mixed)(x_BCHW, weights_EO)]
    torch.manual_seed(4)
    for edge in range(2):
        skip = weights_EO[edge, 3]
        dropped = nn.functional.dropout(x_BCHW, 0.3)
        torch.testing.assert_close(found[edge], plain[edge] + skip * (dropped - x_BCHW))
    mixed.eval()
    still = [terms[0] for terms in mixed(x_BCHW, weights_EO)]
    set_skip_dropout(mixed, 0.0)
    assert all(torch.equal(a, b[0]) for a, b in zip(still, mixed(x_BCHW, weights_EO), strict=True))
    reducing = MixedOp("darts", 4, edges=2, stride=2, bundled=True, pool_norms=True).double()
    set_skip_dropout(reducing, 0.9)
    assert torch.equal(reducing(x_BCHW, weights_EO)[0][0], reducing(x_BCHW, weights_EO)[0][0])


@pytest.mark.parametrize("most", range(5))
def test_skip_connections_are_left_out_by_the_published_loop(most: int) -> None:
    net = small_darts()
    architecture = {name: numbers(14, 8, seed=s) for s, name in enumerate(("normal", "reduce"))}
    architecture["normal"][:, 3] += 2.5  # skip connections nearly everywhere
    found = genotype_of_few_skips(net, architecture, "normal", most)
    weights_EO = architecture["normal"].softmax(-1)
    weights_EO[:, 0] = 0
    while True:  # theirs: the smallest probability of a taken skip connection becomes zero
        taken, start = {}, 0
        for node in range(2, 6):
            largest = weights_EO[start : start + node].max(1)
            for edge in largest.values.topk(2).indices.tolist():
                taken[start + edge] = int(largest.indices[edge])
            start += node
        skips = [row for row, operation in taken.items() if operation == 3]
        if len(skips) <= most:
            break
        weights_EO[min(skips, key=lambda row: float(weights_EO[row, 3])), 3] = 0
    edges, names = edges_of("darts"), FAMILIES["darts"].operations
    assert {
        edges.index((edge.source, node)): names.index(edge.operation)
        for node, pair in enumerate(found.cells["normal"].nodes, 2)
        for edge in pair
    } == taken
    assert found.cells["reduce"] == net.genotype(architecture).cells["reduce"]
    if most == 2:
        assert PDARTS().genotype(net, architecture) == found


@pytest.mark.parametrize("space", ["nasbench201", "darts", "pcdarts"])
def test_a_masked_supernet_is_one_of_the_operations_that_are_left(space: str) -> None:
    torch.manual_seed(0)
    net = build_supernet(
        space, num_classes=3, in_channels=1, image_size=8, channels=8, cells=3
    ).double()
    architecture = {
        name: numbers(*shape, seed=len(name)) for name, shape in net.architecture_shapes.items()
    }
    kept = {
        name: best_kept(t, torch.ones(t.shape, dtype=torch.bool), 3)
        if t.dim() == 2
        else torch.ones(t.shape, dtype=torch.bool)
        for name, t in architecture.items()
    }
    x_BCHW = batch(2)[0]
    logits_BK = net(x_BCHW, masked(architecture, kept))

    class LeftOver(torch.overrides.TorchFunctionMode):
        """A softmax over the kept operations alone, put in their places among zeros."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is Tensor.softmax and args[0].dim() == 2:
                name = next(n for n, t in architecture.items() if torch.equal(t, args[0]))
                weights_EO = torch.zeros_like(args[0])
                for row, mask in enumerate(kept[name]):
                    exponentials = args[0][row, mask].exp()
                    weights_EO[row, mask] = exponentials / exponentials.sum()
                return weights_EO
            return func(*args, **(kwargs or {}))

    with LeftOver():
        twin_BK = plain_logits(net, x_BCHW, architecture)
    torch.testing.assert_close(logits_BK, twin_BK)


@each_base
@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_stands_on_every_base_and_resumes_bit_for_bit(name: str, base: str) -> None:
    search = SEARCHES[name](base=base_of(base))
    users = torch.get_rng_state()
    search.set_progress(0.5)
    before = search.architecture["cell"].detach().clone()
    search.step(batch(2), batch(3))
    assert not torch.equal(before, search.architecture["cell"])
    saved = copy.deepcopy(search.state_dict())
    assert ("kept" in saved) == (base == "drnas_progressive")
    search.set_progress(0.75)
    search.step(batch(4), batch(5))
    other = SEARCHES[name](base=base_of(base), seed=9)
    other.load_state_dict(saved)
    other.set_progress(0.75)
    other.step(batch(4), batch(5))
    assert torch.equal(search.architecture["cell"], other.architecture["cell"])
    for one, two in zip(search.supernet.parameters(), other.supernet.parameters(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), users)
    assert search.genotype() == other.genotype()


def test_searches_on_bases_differ() -> None:
    walked = []
    for name in BASES[:4]:
        search = DARTS(supernet(), order=1, base=base_of(name))
        search.set_progress(0.5)
        search.step(batch(2), batch(3))
        search.step(batch(4), batch(5))
        walked.append(search.architecture["cell"].detach())
    pairs = [(a, b) for i, a in enumerate(walked) for b in walked[:i]]
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_bad_options_are_named() -> None:
    with pytest.raises(InputError, match="beta_weight is -1; pass a number of at least 0"):
        BaseOptions(base="beta_darts", beta_weight=-1.0)
    with pytest.raises(InputError, match="that base drnas lacks; leave it out, or pass base beta"):
        BaseOptions(base="drnas", beta_weight=1.0)


class Steep(Base):
    """Weights whose gradient towards the architecture is infinite where that is zero."""

    def relax(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        del generator
        return {name: tensor.abs().sqrt() for name, tensor in architecture.items()}


def test_a_step_is_skipped_where_only_the_base_is_steep() -> None:
    search = DARTS(supernet(), order=1, base=Steep())
    with torch.no_grad():
        for tensor in search.architecture.values():
            tensor.zero_()
    search.step(batch(0), batch(1))
    assert search.skipped == 1
    assert all(not bool(tensor.any()) for tensor in search.architecture.values())
