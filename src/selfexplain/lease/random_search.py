"""Random search, with shared weights or without: what a search has to beat at the same cost."""

import copy
import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.hypergradients import Level, World, as_function
from selfexplain.hypergradients.level import SINGLE
from selfexplain.lease.bases import Architecture
from selfexplain.lease.options import Rates
from selfexplain.lease.search import (
    ArchitectureSearch,
    Batch,
    Declaration,
    Learner,
    explainer,
    explainer_learns,
)
from selfexplain.limits import check_in_range
from selfexplain.spaces import (
    Genotype,
    Supernet,
    from_string,
    one_hot_architecture,
    random_genotype,
    to_string,
)

SCORED_BATCHES = 4
"""Held-out batches that each candidate is scored on; every candidate sees the same."""


class RandomSearch(ArchitectureSearch):
    """Random search with weight sharing (Li and Talwalkar 2019).

    Each step draws a cell and moves the supernet's weights as if it were the only one. After every
    epoch some cells are drawn and scored with the shared weights on held-out images; the best is
    what the search stands for until the next epoch ends. Scores use the statistics of their own
    batches, as running ones are a mixture of all cells.

    Args:
        supernet: trained in place.
        rates: how the weights are updated.
        candidates: how many cells are scored after an epoch.
        seed: of all that is drawn.
        processes: those that share each batch; each scores every candidate on the same images.

    Raises:
        InputError: there are no candidates.

    Example:
        >>> from selfexplain.spaces import build_supernet
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=2, in_channels=1, image_size=8, channels=4, cells=1
        ... )
        >>> search = RandomSearch(supernet, candidates=3)
        >>> batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> sorted(search.step(batch, batch))
        ['explainer']
        >>> search.end_epoch([batch])
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        rates: Rates | None = None,
        candidates: int = 20,
        seed: int = 0,
        processes: World = SINGLE,
    ) -> None:
        check_in_range("candidates", candidates, 1)
        super().__init__(supernet, rates or Rates(), seed, processes)
        self.candidates = candidates
        self._drawn = self._draw()

    def declare(self, train_batch: Batch, val_batch: Batch) -> Declaration:
        """One level, at the cell that was drawn; the architecture is not updated by a gradient."""
        del val_batch
        learner = self.learners["explainer"]
        loss = explainer_learns(explainer(learner.own_step()), *train_batch)
        return Declaration(levels=[Level("explainer", loss, learner.lr)], outer=loss, mode=None)

    def relaxed(self) -> Architecture:
        """The drawn cell."""
        return self._drawn

    def step(
        self, train_batch: Batch, val_batch: Batch, *, move_architecture: bool = True
    ) -> dict[str, float]:
        """Draw a cell and move its weights; the validation batch is not looked at."""
        del move_architecture
        self._drawn = self._draw()
        return super().step(train_batch, val_batch, move_architecture=False)

    def end_epoch(self, held_out: Iterable[Batch]) -> None:
        """Score cells drawn anew, and stand for the best of them."""
        batches = list(islice(held_out, SCORED_BATCHES))
        drawn = [self._draw() for _ in range(self.candidates)]
        scores = [self._correct(architecture, batches) for architecture in drawn]
        best = drawn[scores.index(max(scores))]
        with torch.no_grad():
            for name, tensor in self.architecture.items():
                tensor.copy_(best[name])

    @torch.no_grad()
    def _correct(self, architecture: dict[str, Tensor], batches: Iterable[Batch]) -> int:
        """How many held-out images the supernet gets right with this architecture."""
        learner = self.learners["explainer"]
        function = as_function(learner.module)  # leaves the running statistics alone
        return sum(
            int((function(learner.weights, x_BCHW, architecture).argmax(1) == y_B).sum())
            for x_BCHW, y_B in batches
        )

    def _draw(self) -> dict[str, Tensor]:
        genotype = random_genotype(self.supernet.family, self.generator)
        reference = next(self.supernet.parameters())
        architecture = one_hot_architecture(self.supernet, genotype)
        return {name: tensor.to(reference) for name, tensor in architecture.items()}


class _Alone(nn.Module):
    """A cell's own network, called as a supernet is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor, architecture: object) -> Tensor:
        """Logits (B, K)."""
        del architecture
        logits_BK: Tensor = self.network(x_BCHW)
        return logits_BK


class RandomBest(ArchitectureSearch):
    """The best of some random cells, each trained alone, for an equal share of the epochs.

    A step is one pass of one cell's network, with the rates of every search; each candidate's
    learning rate falls along a cosine of its own. The search stands for the candidate with the
    best accuracy on held-out images after its last epoch, by its running statistics.

    Args:
        supernet: tells the cells' family; it is not trained.
        build: makes the untrained network of a genotype, from torch's global generator.
        candidates: how many cells.
        rates: how the weights are updated.
        seed: of the cells and their weights.
        processes: those that share each batch; each scores the networks on the same images.

    Raises:
        InputError: there are no candidates.

    Example:
        >>> from selfexplain.spaces import build_network, build_supernet
        >>> sizes = {"num_classes": 2, "in_channels": 1, "image_size": 8, "channels": 4, "cells": 1}
        >>> search = RandomBest(
        ...     build_supernet("tiny201", **sizes), lambda cell: build_network(cell, **sizes)
        ... )
        >>> batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> sorted(search.step(batch, batch))
        ['explainer']
        >>> search.end_epoch([batch])
        >>> search.set_progress(0.9)  # on to the last of five candidates
    """

    def __init__(
        self,
        supernet: Supernet,
        build: Callable[[Genotype], nn.Module],
        *,
        candidates: int = 5,
        rates: Rates | None = None,
        seed: int = 0,
        processes: World = SINGLE,
    ) -> None:
        check_in_range("candidates", candidates, 1)
        super().__init__(supernet, rates or Rates(), seed, processes)
        self.build, self.candidates, self.number = build, candidates, 0
        self.score, self.best_score = -1.0, -1.0
        self.best: tuple[Genotype, _Alone] | None = None
        """The best of the candidates that are finished."""
        self._start(random_genotype(supernet.family, self.generator))

    @property
    def evaluated(self) -> nn.Module:
        """The network of the best candidate."""
        if self.best is None or self.score > self.best_score:
            return self._candidate
        return self.best[1]

    @property
    def _candidate(self) -> _Alone:
        module = self.learners["explainer"].module
        assert isinstance(module, _Alone)
        return module

    def declare(self, train_batch: Batch, val_batch: Batch) -> Declaration:
        """One level: the candidate's plain training."""
        del val_batch
        learner = self.learners["explainer"]
        loss = explainer_learns(explainer(learner.own_step()), *train_batch)
        return Declaration(levels=[Level("explainer", loss, learner.lr)], outer=loss, mode=None)

    def step(
        self, train_batch: Batch, val_batch: Batch, *, move_architecture: bool = True
    ) -> dict[str, float]:
        """Move the candidate's weights; the validation batch is not looked at."""
        del move_architecture
        return super().step(train_batch, val_batch, move_architecture=False)

    def set_progress(self, done: float) -> None:
        """Set the candidate and its learning rate for a share `done` in [0, 1] of the search."""
        shares = round(self.candidates * done, 9)  # epochs must not miss a boundary
        number = min(int(shares), self.candidates - 1)
        if number > self.number:
            if self.best is None or self.score > self.best_score:
                self.best, self.best_score = (self.cell, self._candidate), self.score
            self.number = number
            self._start(random_genotype(self.supernet.family, self.generator))
        within = shares - number
        self.learners["explainer"].set_lr((1 + math.cos(math.pi * within)) / 2)

    @torch.no_grad()
    def end_epoch(self, held_out: Iterable[Batch]) -> None:
        """Score the candidate, and stand for the best one."""
        module = self._candidate.eval()
        right, images = 0, 0
        for x_BCHW, y_B in held_out:
            right += int((module(x_BCHW, None).argmax(1) == y_B).sum())
            images += len(y_B)
        module.train()
        self.score = right / images
        best = self.cell if self.best is None or self.score > self.best_score else self.best[0]
        self._stand_for(best)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers and strings."""
        best = None
        if self.best is not None:
            best = {"cell": to_string(self.best[0]), "module": self.best[1].state_dict()}
        candidate = {
            "number": self.number,
            "cell": to_string(self.cell),
            "scores": [self.score, self.best_score],
            "best": copy.deepcopy(best),
        }
        return {**super().state_dict(), "candidate": candidate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        candidate = state["candidate"]
        self.number, self.best = candidate["number"], None
        if candidate["best"] is not None:
            cell = from_string(candidate["best"]["cell"])
            self.best = cell, self._network(cell)
            self.best[1].load_state_dict(candidate["best"]["module"])
        self._start(from_string(candidate["cell"]))
        self.score, self.best_score = candidate["scores"]
        super().load_state_dict(state)

    def _start(self, cell: Genotype) -> None:
        self.cell, self.score = cell, -1.0
        self.learners["explainer"] = Learner(self._network(cell), self.rates.lr, self.rates)
        if self.best is None:
            self._stand_for(cell)

    def _network(self, cell: Genotype) -> _Alone:
        seed = int(torch.randint(2**31, (1,), generator=self.generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.build(cell)
        reference = next(self.supernet.parameters())
        network = network.to(reference.device, reference.dtype)
        return _Alone(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]

    @torch.no_grad()
    def _stand_for(self, cell: Genotype) -> None:
        architecture = one_hot_architecture(self.supernet, cell)
        for name, tensor in self.architecture.items():
            tensor.copy_(architecture[name])
