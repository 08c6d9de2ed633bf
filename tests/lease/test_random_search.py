"""Random search with shared weights: what it trains, and which cell it stands for."""

import copy

import pytest
import torch
from tests.helpers.lease_nets import batch, supernet

from selfexplain.errors import InputError
from selfexplain.lease import RandomBest, RandomSearch, Rates
from selfexplain.spaces import (
    build_network,
    build_supernet,
    from_string,
    one_hot_architecture,
    random_genotype,
)

SPACES = ("nasbench201", "tiny201", "darts", "pcdarts")


def small(space: str) -> torch.nn.Module:
    torch.manual_seed(0)
    net = build_supernet(
        space,
        num_classes=3,
        in_channels=1,
        image_size=8,
        channels=8,
        cells=1 if space == "nasbench201" else 3,
    )
    return net.double()


@pytest.mark.parametrize("space", SPACES)
def test_one_hot_architecture_is_the_genotypes(space: str) -> None:
    net = small(space)
    for seed in range(5):
        genotype = random_genotype(net.family, torch.Generator().manual_seed(seed))
        assert net.genotype(one_hot_architecture(net, genotype)) == genotype


@pytest.mark.parametrize("space", SPACES)
def test_one_hot_weights_are_exactly_zero_and_one(space: str) -> None:
    net = small(space)
    architecture = one_hot_architecture(net, random_genotype(net.family))
    for name, numbers in architecture.items():
        if not name.endswith("_edges"):
            weights = numbers.softmax(-1)
            assert set(weights.flatten().tolist()) == {0.0, 1.0}
            assert torch.equal(weights.sum(-1), torch.ones(len(weights)))


@pytest.mark.parametrize(
    ("operation", "learns"),
    [("skip_connect", False), ("avg_pool_3x3", False), ("nor_conv_3x3", True)],
)
def test_operations_that_were_not_drawn_learn_nothing(operation: str, learns: bool) -> None:
    net = supernet()
    cell = "|O~0|+|O~0|O~1|+|O~0|O~1|O~2|".replace("O", operation)
    architecture = one_hot_architecture(net, from_string(cell))
    x, y = batch(0)
    torch.nn.functional.cross_entropy(net(x, architecture), y).backward()
    convolutions = [
        module
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.Conv2d) and ".senders." in name
    ]
    assert len(convolutions) >= 12
    gradients = [c.weight.grad for c in convolutions]
    moved = [g is not None and bool(g.abs().sum() > 0) for g in gradients]
    assert any(moved) == learns
    assert not all(moved)


def test_other_genotype_is_refused() -> None:
    with pytest.raises(InputError, match="pass a genotype of nasbench201"):
        one_hot_architecture(supernet(), random_genotype("darts"))
    with pytest.raises(InputError, match="candidates is 0"):
        RandomSearch(supernet(), candidates=0)


def test_stands_for_the_best_of_the_cells_it_scored() -> None:
    search = RandomSearch(supernet(), candidates=6, seed=1)
    for i in range(5):
        search.step(batch(i), batch(0))
    held_out = [batch(100 + i) for i in range(3)]
    twin = copy.deepcopy(search)
    buffers = {k: b.clone() for k, b in search.supernet.named_buffers()}
    search.end_epoch(held_out)
    assert all(torch.equal(b, buffers[k]) for k, b in search.supernet.named_buffers())

    scores = []
    for _ in range(6):
        drawn = twin._draw()
        correct = 0
        for x, y in held_out:  # by batch statistics: the twin is in training mode
            correct += int((twin.supernet(x, drawn).argmax(1) == y).sum())
        scores.append((correct, twin.supernet.genotype(drawn)))
    best = max(correct for correct, _ in scores)
    assert len({correct for correct, _ in scores}) > 1
    assert search.genotype() == next(g for correct, g in scores if correct == best)


def test_continues_from_its_state() -> None:
    unbroken, broken = RandomSearch(supernet(), seed=2), RandomSearch(supernet(), seed=2)
    losses = [unbroken.step(batch(i), batch(0))["explainer"] for i in range(6)]
    for i in range(3):
        broken.step(batch(i), batch(0))
    fresh = RandomSearch(supernet(), seed=7)
    fresh.load_state_dict(broken.state_dict())
    assert [fresh.step(batch(i), batch(0))["explainer"] for i in range(3, 6)] == losses[3:]


SIZES = {"num_classes": 3, "in_channels": 1, "image_size": 8, "channels": 4, "cells": 1}


def best_of(candidates: int, seed: int = 0) -> RandomBest:
    return RandomBest(
        supernet(),
        lambda cell: build_network(cell, **SIZES),
        candidates=candidates,
        rates=Rates(lr=0.2, lr_min=0.0),
        seed=seed,
    )


def test_the_best_of_some_cells_is_the_one_that_a_plain_loop_trains_best() -> None:
    search = best_of(3)
    trained, accuracies = [], []
    for epoch in range(6):
        search.set_progress(epoch / 6)
        module = search.learners["explainer"].module
        if epoch % 2 == 0:
            twin = copy.deepcopy(module)
            optimizer = torch.optim.SGD(twin.parameters(), 0.2, 0.9, weight_decay=3e-4)
            trained.append((search.cell, twin))
            accuracies.append(0.0)
        optimizer.param_groups[0]["lr"] = 0.2 * (1, 0.5)[epoch % 2]
        for seed in (2, 3):
            x, y = batch(seed)
            loss = torch.nn.functional.cross_entropy(twin(x, None), y)
            optimizer.zero_grad()
            loss.backward()
            for p in twin.parameters():  # of an edge to nowhere: weight decay is all it sees
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 5.0)
            optimizer.step()
            metrics = search.step((x, y), batch(9))
            assert metrics == {"explainer": pytest.approx(float(loss.detach()))}
        for one, two in zip(module.state_dict().values(), twin.state_dict().values(), strict=True):
            torch.testing.assert_close(one, two)
        held_out = [batch(seed) for seed in range(20, 26)]
        search.end_epoch(held_out)
        twin.eval()
        accuracies[-1] = sum(float((twin(x, None).argmax(1) == y).sum()) for x, y in held_out) / 36
        twin.train()
        best = accuracies.index(max(accuracies))
        assert search.genotype() == trained[best][0]
        states = search.evaluated.state_dict(), trained[best][1].state_dict()
        for one, two in zip(*(state.values() for state in states), strict=True):
            torch.testing.assert_close(one, two)
    assert len({str(cell) for cell, _ in trained}) == 3
    assert len(set(accuracies)) > 1


def test_the_best_of_some_cells_resumes_within_a_later_one() -> None:
    search, users = best_of(2), torch.get_rng_state()

    def go(search: RandomBest, epochs: range) -> None:
        for epoch in epochs:
            search.set_progress(epoch / 4)
            search.step(batch(epoch), batch(9))
            search.end_epoch([batch(20)])

    go(search, range(3))
    saved = copy.deepcopy(search.state_dict())
    go(search, range(3, 4))
    other = best_of(2, seed=5)
    other.load_state_dict(saved)
    go(other, range(3, 4))
    assert torch.equal(torch.get_rng_state(), users)
    assert search.genotype() == other.genotype()
    for one, two in (
        (search.learners["explainer"].module, other.learners["explainer"].module),
        (search.evaluated, other.evaluated),
    ):
        pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(InputError, match="candidates is 0"):
        best_of(0)
