"""DARTS, first and second order, as a declaration on the levels of LeaSE."""

from typing import Literal

from selfexplain.hypergradients import Level, Mode, World, as_function
from selfexplain.hypergradients.level import SINGLE
from selfexplain.lease.bases import Base
from selfexplain.lease.options import Rates
from selfexplain.lease.search import (
    WEIGHTS_DISPLACEMENT,
    ArchitectureSearch,
    Batch,
    Declaration,
    explainer,
    explainer_learns,
    explainer_relearns,
)
from selfexplain.spaces import Supernet


class DARTS(ArchitectureSearch):
    """Differentiable architecture search (Liu, Simonyan and Yang 2019).

        E' = E - lr grad_E CE(f(x; E, A), y)      on training images
        min_A CE(f(x; E', A), y)                  on validation images

    Args:
        supernet: the network whose architecture is searched; trained in place.
        order: 2 differentiates through E'; 1 takes E' for E.
        rates: how weights and architecture are updated.
        mode: how the hypergradient of the second order is computed.
        seed: of the start architecture.
        processes: those that share each batch, equal parts each; all are then updated alike.
        base: how the architecture becomes the weights of the operations; None for a softmax.

    Example:
        >>> import torch
        >>> from selfexplain.spaces import build_supernet
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=2, in_channels=1, image_size=8, channels=4, cells=1
        ... )
        >>> search = DARTS(supernet, order=1)
        >>> batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> sorted(search.step(batch, batch))
        ['explainer', 'validation']
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        order: Literal[1, 2] = 2,
        rates: Rates | None = None,
        mode: Mode = "finite_difference",
        seed: int = 0,
        processes: World = SINGLE,
        base: Base | None = None,
    ) -> None:
        super().__init__(supernet, rates or Rates(), seed, processes, base)
        self.mode: Mode | None = mode if order == 2 else None

    def declare(self, train_batch: Batch, val_batch: Batch) -> Declaration:
        """One level, and the validation loss."""
        learner = self.learners["explainer"]
        own, trial = explainer(learner.own_step()), explainer(as_function(learner.module))
        return Declaration(
            levels=[
                Level(
                    "explainer",
                    explainer_learns(own, *train_batch),
                    learner.lr,
                    finite_difference_step=WEIGHTS_DISPLACEMENT,
                )
            ],
            outer=explainer_relearns(trial, trial, *val_batch, lambda_=0.0),
            mode=self.mode,
        )
