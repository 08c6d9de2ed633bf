"""Random search with shared weights: the baseline that a search has to beat at the same steps."""

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor

from selfexplain.hypergradients import Level, World, as_function
from selfexplain.hypergradients.level import SINGLE
from selfexplain.lease.bases import Architecture
from selfexplain.lease.options import Rates
from selfexplain.lease.search import (
    ArchitectureSearch,
    Batch,
    Declaration,
    explainer,
    explainer_learns,
)
from selfexplain.limits import check_in_range
from selfexplain.spaces import Supernet, one_hot_architecture, random_genotype

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
