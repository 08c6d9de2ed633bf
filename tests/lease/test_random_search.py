"""Random search with shared weights: what it trains, and which cell it stands for."""

import copy

import pytest
import torch
from tests.helpers.lease_nets import batch, supernet

from selfexplain.errors import InputError
from selfexplain.lease import RandomSearch
from selfexplain.spaces import build_supernet, from_string, one_hot_architecture, random_genotype

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
