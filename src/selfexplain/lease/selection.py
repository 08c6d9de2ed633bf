"""Selection by perturbation: which operations the supernet cannot do without, edge by edge.

At the end of a search, the operation with the largest weight need not be the one that matters most.
DARTS-PT (Wang et al., "Rethinking Architecture Selection in Differentiable NAS", ICLR 2021)
decides by what is lost instead. In each round, for a random edge that is still mixed, each
operation is removed in turn; the one whose removal costs most becomes the edge's only one. The
supernet is then tuned for some epochs before the next round. Where nodes take only some of their
edges (darts), later rounds do the same for a random node: the edges whose removal costs most stay.

What is lost is a score of an architecture's supernet, which is a choice:

- `supernet_score`, as published: the accuracy of the supernet on held-out images. An accuracy is a
  count, so ties are frequent on few images; the loss then decides.
- `audience_score`, of LeaSE: how well the audience would do on held-out images had it learned from
  the explanations of this supernet. This is levels II to IV with the explainer's weights fixed, and
  needs no hypergradient. Scoring the present audience on the held-out images' explanations would be
  cheaper, but it asks whether a perturbed supernet's explanations look like those that the audience
  has seen, not whether they teach. So a copy of the audience learns for some steps from the
  perturbed supernet's explanations, the same training batches for all candidates, and its loss on
  plain held-out images is the score; after so few steps accuracies hardly differ. It costs one pass
  of the supernet a step, and none of the held-out images, so that 20 steps are cheaper than
  `supernet_score` is with more than 20 batches of held-out images.

Removing an operation leaves the weights of the others as they are, as in the published code: its
weight goes to the operation `none`, which adds nothing. So the removal of `none` costs nothing.

Shape suffixes: E edges, O operations.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from selfexplain.hypergradients import World, as_function, take_steps
from selfexplain.hypergradients.level import Variable
from selfexplain.lease.bases import Architecture, without_operation
from selfexplain.lease.lease import LeaSE
from selfexplain.lease.search import ArchitectureSearch, Batch
from selfexplain.seeding import random_state, set_random_state
from selfexplain.spaces.genotype import FAMILIES, edges_of
from selfexplain.spaces.supernet import NEVER

Batches = Callable[[], Iterable[Batch]]
"""Gives the same batches at each call."""

Score = Callable[[dict[str, Tensor]], tuple[float, ...]]
"""Of numbers that a supernet takes the softmax of: the larger, the better."""

# What an architecture is without one of its parts.


def without_edge(numbers: Architecture, cell: str, edge: int, none: int) -> dict[str, Tensor]:
    """An architecture whose cell lacks an edge: it is `none`, and weighs nothing among others.

    Where edges have weights of their own (pcdarts), the other edges of the node share its weight.
    """
    without = dict(numbers)
    without[cell] = numbers[cell].clone()
    without[cell][edge] = NEVER
    without[cell][edge, none] = 0
    own = f"{cell}_edges"
    if own in numbers:
        without[own] = numbers[own].clone()
        without[own][edge] = NEVER
    return without


# A round of decisions.


def decide(search: ArchitectureSearch, score: Score) -> None:
    """Decide on a random mixed edge of every kind of cell or, if none is mixed, on a node's edges.

    Whatever lost is no longer `kept` by the search. Of a search that is decided nothing changes.

    Args:
        search: between two steps; its generator draws edges and nodes.
        score: as this module's functions make it.
    """
    for cell in FAMILIES[search.supernet.family].cells:
        if bool((search.kept[cell].sum(1) > 1).any()):
            _decide_on_operation(search, cell, score)
        else:
            _decide_on_edges(search, cell, score)


def _decide_on_operation(search: ArchitectureSearch, cell: str, score: Score) -> None:
    rules, kept_EO = FAMILIES[search.supernet.family], search.kept[cell]
    none = rules.operations.index("none")
    edge = _one_of((kept_EO.sum(1) > 1).nonzero()[:, 0].tolist(), search.generator)
    # Where nodes choose among their edges, no cell has `none` on those that it takes.
    candidates = [
        o
        for o in kept_EO[edge].nonzero()[:, 0].tolist()
        if o != none or rules.edges_per_node is None
    ]
    numbers = search.expected()
    scores = [
        score(numbers | {cell: without_operation(numbers[cell], edge, o, none)}) for o in candidates
    ]
    kept_EO[edge] = False
    kept_EO[edge, candidates[scores.index(min(scores))]] = True


def _decide_on_edges(search: ArchitectureSearch, cell: str, score: Score) -> None:
    family = search.supernet.family
    rules, kept_EO = FAMILIES[family], search.kept[cell]
    none = rules.operations.index("none")
    if rules.edges_per_node is None:
        return
    rows: dict[int, list[int]] = {}
    for row, (_, node) in enumerate(edges_of(family)):
        if not kept_EO[row, none]:
            rows.setdefault(node, []).append(row)
    crowded = [node for node, edges in rows.items() if len(edges) > rules.edges_per_node]
    if not crowded:
        return
    edges = rows[_one_of(crowded, search.generator)]
    numbers = search.expected()
    scores = {edge: score(without_edge(numbers, cell, edge, none)) for edge in edges}
    for edge in sorted(edges, key=lambda edge: scores[edge])[rules.edges_per_node :]:
        kept_EO[edge] = False
        kept_EO[edge, none] = True
        if f"{cell}_edges" in search.kept:
            search.kept[f"{cell}_edges"][edge] = False


def _one_of(items: list[int], generator: torch.Generator) -> int:
    return items[int(torch.randint(len(items), (1,), generator=generator))]


# Scores.


def supernet_score(search: ArchitectureSearch, held_out: Batches) -> Score:
    """Accuracy of the supernet on held-out images, then minus its loss.

    BatchNorm looks at the batch, as in training: running statistics are of the whole mixture.

    Args:
        search: its weights as they are now.
        held_out: images and labels; all of them are looked at for each architecture.
    """
    function = as_function(search.evaluated)
    weights = {name: p.detach() for name, p in search.evaluated.named_parameters()}

    def score(architecture: dict[str, Tensor]) -> tuple[float, ...]:
        return _accuracy_and_loss(
            lambda x_BCHW: function(weights, x_BCHW, architecture), held_out, search.processes
        )

    return score


def audience_score(search: LeaSE, training: Batches, held_out: Batches, steps: int) -> Score:
    """Minus the held-out loss of an audience that has learned from a supernet's explanations.

    Args:
        search: its weights as they are now; nothing of it is changed.
        training: each process's share of images and labels that the audience learns from.
        held_out: images and labels that it is scored on.
        steps: gradient steps at the audience's first learning rate; each takes a batch, so there
            are fewer if there are fewer batches.
    """
    batches = list(islice(training(), steps))
    draws = search.generator.get_state()
    learner = search.learners["audience"]
    function = as_function(learner.module)

    def taught(architecture: dict[str, Tensor]) -> Variable:
        variables = search.variables() | {"architecture": architecture}
        for batch in batches:
            step = search.declare(batch, batch)
            levels = [
                replace(level, lr=search.rates.audience_lr) if level.name == "audience" else level
                for level in step.levels
                if level.name != "explainer"
            ]
            stepped = take_steps(levels, variables | step.start, search.processes)[2]
            variables["audience"] = stepped["audience"]
        return variables["audience"]

    def score(architecture: dict[str, Tensor]) -> tuple[float, ...]:
        users = random_state()
        try:
            # What a control draws, and an audience's dropout, is the same for all candidates.
            search.generator.set_state(draws)
            set_random_state(users)
            weights = taught(architecture)
            return _accuracy_and_loss(
                lambda x_BCHW: function(weights, x_BCHW), held_out, search.processes
            )[1:]
        finally:
            for each in search.learners.values():
                each.take_statistics()
            search.generator.set_state(draws)
            set_random_state(users)

    return score


@torch.no_grad()
def _accuracy_and_loss(
    network: Callable[[Tensor], Tensor], held_out: Batches, processes: World
) -> tuple[float, float]:
    """Accuracy, and minus the mean cross-entropy."""
    sums = torch.zeros(3)
    for x_BCHW, y_B in held_out():
        logits_BK = network(x_BCHW)
        right = (logits_BK.argmax(1) == y_B).sum()
        loss = cross_entropy(logits_BK, y_B, reduction="sum")
        sums = sums.to(loss) + torch.stack(
            [right.to(loss), -loss, torch.ones_like(loss) * len(y_B)]
        )
    # All processes look at the same images; the mean gives them the same bits.
    (means,) = processes.mean([sums[:2] / sums[2]])
    return float(means[0]), float(means[1])
