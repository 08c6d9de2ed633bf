"""Selection by perturbation: against plain loops, and what it leaves of a search."""

import copy
from typing import Any

import pytest
import torch
from tests.helpers.lease_nets import audience, batch, supernet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from selfexplain.lease import DARTS, ArchitectureSearch, BaseOptions, LeaSE, LeaSEOptions, Rates
from selfexplain.lease.lease import bounded, normalised, shown_to_audience
from selfexplain.lease.options import selection_rounds
from selfexplain.lease.selection import (
    audience_score,
    decide,
    supernet_score,
    without_edge,
    without_operation,
)
from selfexplain.spaces import FAMILIES, Supernet, build_supernet
from selfexplain.spaces.genotype import edges_of

HELD_OUT = [batch(seed) for seed in (11, 12)]


def small(space: str) -> Supernet:
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "in_channels": 1, "image_size": 8, "channels": 8}
    return build_supernet(space, cells=3 if "darts" in space else 1, **sizes).double()


def moved(search: ArchitectureSearch) -> ArchitectureSearch:
    """With an architecture away from its start, where all operations weigh alike."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in search.architecture.values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
    return search


def numbers_of(search: ArchitectureSearch) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in search.architecture.items()}


@torch.no_grad()
def plain_score(net: Supernet, weights: dict[str, Tensor]) -> tuple[float, ...]:
    """Accuracy and minus loss, of weights that need no softmax and need not sum to one."""
    cells = [weights[name] for name in FAMILIES[net.family].cells]
    given = cells if len(cells) == 1 else [[weights_EO] for weights_EO in cells]
    right, loss = 0, 0.0
    for x, y in HELD_OUT:
        logits = net.network(x, *given)
        right += int((logits.argmax(1) == y).sum())
        loss += float(cross_entropy(logits, y, reduction="sum"))
    return right / 12, -loss / 12


def made_up_score(weights: dict[str, Tensor]) -> tuple[float, ...]:
    """A score that takes no time, and depends on every weight but that of `none`."""
    generator = torch.Generator().manual_seed(8)
    total = 0.0
    for cell in ("normal", "reduce"):
        slopes = torch.randn(14, 7, generator=generator, dtype=torch.float64)
        total += float((slopes * weights[cell][:, 1:]).sum().sin())
    return (total,)


class PlainSelection:
    """DARTS-PT by the book, of the weights themselves; edges and nodes are drawn by a generator."""

    def __init__(self, search: ArchitectureSearch, score: Any = None) -> None:
        net, self.generator = copy.deepcopy(search.supernet), torch.Generator()
        self.score = score or (lambda weights: plain_score(net, weights))
        self.generator.set_state(search.generator.get_state())
        self.rules, self.edges = FAMILIES[net.family], edges_of(net.family)
        self.weights = {name: t.softmax(-1) for name, t in numbers_of(search).items()}
        self.chosen: dict[str, dict[int, int]] = {name: {} for name in self.rules.cells}

    def run(self) -> dict[str, list[tuple[int, int]]]:
        """Cell -> (row, operation) of its edges."""
        for _ in self.edges:
            for cell in self.rules.cells:
                self.decide_on_operation(cell)
        for _ in range(0 if self.rules.edges_per_node is None else 3):
            for cell in self.rules.cells:
                self.decide_on_edges(cell)
        return {cell: sorted(found.items()) for cell, found in self.chosen.items()}

    def decide_on_operation(self, cell: str) -> None:
        edge = self.draw([e for e in range(len(self.edges)) if e not in self.chosen[cell]])
        perturbed = {}
        for o, name in enumerate(self.rules.operations):
            if name != "none" or self.rules.edges_per_node is None:
                perturbed[o] = self.weights[cell].clone()
                perturbed[o][edge, o] = 0
        best = self.from_most_needed(cell, perturbed)[0]
        self.chosen[cell][edge] = best
        self.weights[cell][edge] = torch.eye(len(self.rules.operations))[best]

    def decide_on_edges(self, cell: str) -> None:
        taken = [target for row, (_, target) in enumerate(self.edges) if row in self.chosen[cell]]
        node = self.draw([n for n in (3, 4, 5) if taken.count(n) > 2])
        rows = [row for row, (_, target) in enumerate(self.edges) if target == node]
        perturbed = {row: self.weights[cell].clone() for row in rows}
        for row in rows:
            perturbed[row][row] = 0
        for row in self.from_most_needed(cell, perturbed)[2:]:
            self.weights[cell][row] = 0
            del self.chosen[cell][row]

    def from_most_needed(self, cell: str, perturbed: dict[int, Tensor]) -> list[int]:
        scores = {k: self.score(self.weights | {cell: w}) for k, w in perturbed.items()}
        return sorted(scores, key=lambda k: scores[k])

    def draw(self, items: list[int]) -> int:
        return items[int(torch.randint(len(items), (1,), generator=self.generator))]


@pytest.mark.parametrize("space", ["nasbench201", "tiny201", "darts"])
def test_rounds_of_decisions_are_the_plain_loop(space: str) -> None:
    search = moved(DARTS(small(space), order=1, seed=3))
    rules, edges = FAMILIES[space], edges_of(space)
    wanted = PlainSelection(search, made_up_score if space == "darts" else None).run()
    before = numbers_of(search)
    for number in range(selection_rounds(space) + 1):  # one more than needed changes nothing
        mixed = sum(int((kept.sum(1) > 1).sum()) for kept in search.kept.values())
        assert mixed == max(0, len(edges) - number) * len(rules.cells)
        decide(search, softmaxed if space == "darts" else supernet_score(search, lambda: HELD_OUT))
    found = search.genotype()
    for cell, decided in wanted.items():
        assert [
            (edges.index((edge.source, node)), rules.operations.index(edge.operation))
            for node, taken in enumerate(found.cells[cell].nodes, rules.inputs)
            for edge in taken
        ] == decided
    assert all(torch.equal(t, before[name]) for name, t in search.architecture.items())
    weights = [t.softmax(-1) for t in search.expected().values()]
    assert all(set(w.flatten().tolist()) == {0.0, 1.0} for w in weights)


def softmaxed(numbers: dict[str, Tensor]) -> tuple[float, ...]:
    return made_up_score({name: t.softmax(-1) for name, t in numbers.items()})


def test_a_supernet_of_two_kinds_of_cells_is_scored_without_an_operation() -> None:
    search = moved(DARTS(small("darts"), order=1))
    numbers = search.expected()
    score = supernet_score(search, lambda: HELD_OUT)
    without = numbers | {"reduce": without_operation(numbers["reduce"], 4, 6, none=0)}
    weights = {name: t.softmax(-1) for name, t in numbers.items()}
    whole = score(numbers)
    weights["reduce"][4, 6] = 0
    assert score(without) == pytest.approx(plain_score(copy.deepcopy(search.supernet), weights))
    assert score(without) != whole


def test_a_space_whose_edges_have_weights_is_decided_too() -> None:
    search = moved(DARTS(small("pcdarts"), order=1))
    for _ in range(selection_rounds("darts")):
        decide(search, softmaxed)
    for name in ("normal", "reduce"):
        taken = search.kept[name][:, 0].logical_not()
        assert torch.equal(taken, search.kept[f"{name}_edges"])
        assert int(taken.sum()) == 8
    cells = search.genotype().cells
    assert all(edge.operation != "none" for c in cells.values() for n in c.nodes for edge in n)
    before = search.kept["normal"].clone()
    search.step(batch(2), batch(3))  # what is decided stays, and takes steps
    assert torch.equal(search.kept["normal"], before)
    assert search.skipped == 0


def test_an_operation_that_is_removed_leaves_the_others_weights_as_they_are() -> None:
    numbers = torch.randn(3, 5, dtype=torch.float64)
    for operation in range(5):
        weights = numbers.softmax(-1)
        found = without_operation(numbers, 1, operation, none=0).softmax(-1)
        weights[1, 0] += weights[1, operation] if operation else 0
        weights[1, operation] = weights[1, operation] if operation == 0 else 0
        torch.testing.assert_close(found, weights)
    both = without_edge({"cell": numbers, "cell_edges": torch.zeros(3)}, "cell", 1, none=2)
    assert both["cell"].softmax(-1)[1].tolist() == [0, 0, 1, 0, 0]
    assert both["cell_edges"].softmax(-1).tolist() == [0.5, 0, 0.5]
    assert torch.equal(both["cell"][[0, 2]], numbers[[0, 2]])


def taught_by_hand(search: LeaSE, architecture: dict[str, Tensor], batches: Any) -> nn.Module:
    """The audience after plain SGD steps on images and explanations of them."""
    net, listener, options = search.supernet, search.learners["audience"].module, search.options
    listener = copy.deepcopy(listener)
    optimizer = torch.optim.SGD(listener.parameters(), search.rates.audience_lr)
    for x, y in batches:
        delta = torch.zeros_like(x)
        for _ in range(options.explanation_steps):
            z = torch.zeros_like(x, requires_grad=True)
            logits = copy.deepcopy(net)(x + bounded(delta + z, options.eps), architecture)
            target = logits.argmax(1) if options.explanation_steps == 1 else y
            (g,) = torch.autograd.grad(cross_entropy(logits, target, reduction="sum"), z)
            delta = delta + options.step_size * normalised(g)
        shown = shown_to_audience(x, bounded(delta, options.eps), options.eps, options.shown)
        loss = cross_entropy(listener(x), y) + options.gamma * cross_entropy(listener(shown), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return listener


@pytest.mark.parametrize(
    "options", [{}, {"gamma": 3.0, "explanation_steps": 2, "target": "label", "shown": "emphasis"}]
)
def test_an_audiences_score_is_its_loss_after_it_was_taught(options: dict[str, Any]) -> None:
    given = LeaSEOptions(eps=0.1, step_size=0.1, **options)
    search = LeaSE(supernet(), audience(), options=given, rates=Rates(audience_lr=0.3))
    moved(search).set_tuning(0.5)
    batches = [batch(seed) for seed in (2, 4, 6)]
    numbers = search.expected()
    scores = []
    for removed in (2, 3):
        at = {"cell": without_operation(numbers["cell"], 0, removed, none=0)}
        score = audience_score(search, lambda: [*batches, batch(8)], lambda: HELD_OUT, steps=3)
        listener = taught_by_hand(search, at, batches)
        loss = sum(float(cross_entropy(listener(x), y)) for x, y in HELD_OUT) / 2
        scores.append(score(at))
        assert scores[-1] == (pytest.approx(-loss, abs=1e-9),)
        assert score(at) == scores[-1]
    assert scores[0] != scores[1]


@pytest.mark.parametrize("control", ["none", "shuffled_delta"])
def test_an_audiences_score_leaves_no_trace(control: Any) -> None:
    search = LeaSE(supernet(), audience(), options=LeaSEOptions(control=control))
    search.step(batch(2), batch(3))
    search.learners["audience"].module.append(nn.Dropout(0.5))
    before, users = copy.deepcopy(search.state_dict()), torch.get_rng_state()
    score = audience_score(search, lambda: [batch(2), batch(4)], lambda: HELD_OUT, steps=20)
    first, second = (score(search.expected()) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), users)
    after = search.state_dict()
    for key in ("architecture", "explained_statistics"):
        assert all(torch.equal(before[key][k], t) for k, t in after[key].items())
    for name, learner in before["learners"].items():
        found = after["learners"][name]["module"]
        assert all(torch.equal(t, found[k]) for k, t in learner["module"].items())
    assert torch.equal(before["generator"], after["generator"])


def test_the_audience_decides_by_its_loss() -> None:
    search = moved(LeaSE(supernet(), audience(), rates=Rates(audience_lr=0.3)))
    numbers = search.expected()
    edge = int(torch.randint(6, (1,), generator=torch.Generator().manual_seed(0)))
    search.generator.manual_seed(0)
    score = audience_score(search, lambda: [batch(2)], lambda: HELD_OUT, steps=1)
    losses = [
        score({"cell": without_operation(numbers["cell"], edge, o, none=0)})[0] for o in range(5)
    ]
    decide(search, score)
    assert search.kept["cell"][edge].tolist() == [loss == min(losses) for loss in losses]


def test_tuning_begins_at_a_tenth_of_the_rate_without_momentum() -> None:
    search = DARTS(supernet(), order=1, rates=Rates(lr=0.1, lr_min=0.002))
    learner = search.learners["explainer"]
    search.step(batch(2), batch(3))
    search.set_tuning(0.0)
    assert learner.lr == pytest.approx(0.01)
    assert not learner.optimizer.state
    search.step(batch(2), batch(3))
    search.set_tuning(0.5)
    assert learner.lr == pytest.approx(0.006)
    assert learner.optimizer.state
    search.set_tuning(1.0)
    assert learner.lr == pytest.approx(0.002)


@pytest.mark.parametrize(("space", "rounds"), [("nasbench201", 6), ("tiny201", 3), ("darts", 17)])
def test_epochs_of_tuning_lie_between_the_rounds(space: str, rounds: int) -> None:
    assert selection_rounds(space) == rounds
    assert BaseOptions().more_epochs(space) == 0
    assert BaseOptions(select="perturbation").more_epochs(space) == 5 * (rounds - 1)
    assert BaseOptions(select="perturbation", selection_epochs=0).more_epochs(space) == 0
