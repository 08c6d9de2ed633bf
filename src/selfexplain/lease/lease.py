"""Learning by self-explanation for architecture search: four levels, optimised end to end."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.hypergradients import Level, World, as_function, take_steps
from selfexplain.hypergradients.level import SINGLE, Function
from selfexplain.lease.levels import (
    Loss,
    Network,
    audience_learns,
    explain_by_attack,
    explainer,
    explainer_learns,
    explainer_relearns,
)
from selfexplain.lease.levels import audience as audience_network
from selfexplain.lease.options import GradientPath, LeaSEOptions, Rates
from selfexplain.lease.search import (
    WEIGHTS_DISPLACEMENT,
    ArchitectureSearch,
    Batch,
    Declaration,
    Learner,
)
from selfexplain.models.pointwise import warn_of_strided_pointwise
from selfexplain.spaces import Supernet

AUDIENCE_DISPLACEMENT = 1e-2
"""Root mean square displacement of the audience's weights in a difference: the largest that still
had the sign of the exact product right in most entries, see docs/methods/lease.md."""


def with_gradient_path(options: LeaSEOptions, default: GradientPath) -> LeaSEOptions:
    """The options with a gradient path, the default one if they name none."""
    return replace(options, gradient_path=options.gradient_path or default)


class LeaSE(ArchitectureSearch):
    """Learning by self-explanation (Hosseini and Xie, arXiv 2012.12899).

    An explainer with a learnable architecture learns, explains its predictions by what perturbs
    them, an audience learns from the explanations, and the architecture is moved such that both
    then do well on held-out images (levels.py has the formulas). One gradient step stands for each
    of the inner levels, and the architecture's gradient runs back through all of them.

    The audience has an optimiser of its own, and BatchNorm statistics of its own for images and
    for explained images; its weights see both.

    Args:
        supernet: the explainer; trained in place.
        audience: any classifier (B, C, H, W) -> (B, K) on the same device; trained in place.
        options: see `LeaSEOptions`.
        rates: how weights and architecture are moved.
        std_C: standard deviations by which the images' pixels were divided, so that `eps` is in
            pixel units; None for images in [0, 1].
        seed: of the start architecture, and of what controls draw.
        processes: those that share each batch, equal parts each; all then move alike.

    Raises:
        InputError: the audience does not return as many classes as the supernet.

    Example:
        >>> from selfexplain.models import build_model
        >>> from selfexplain.spaces import build_supernet
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=2, in_channels=1, image_size=8, channels=4, cells=1
        ... )
        >>> lease = LeaSE(supernet, build_model("small_cnn", num_classes=2, in_channels=1))
        >>> batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> sorted(lease.step(batch, batch))
        ['audience', 'delta_1', 'explainer', 'validation']
        >>> lease.genotype().family
        'nasbench201'
    """

    seen_by_audience: tuple[str, ...] = ("audience",)
    """Variables that the audience's output depends on, beside its images."""

    def __init__(
        self,
        supernet: Supernet,
        audience: nn.Module,
        *,
        options: LeaSEOptions | None = None,
        rates: Rates | None = None,
        std_C: Tensor | None = None,
        seed: int = 0,
        processes: World = SINGLE,
    ) -> None:
        super().__init__(supernet, rates or Rates(), seed, processes)
        self.options = with_gradient_path(options or LeaSEOptions(), "full")
        self.std_C = std_C
        self.learners["audience"] = Learner(audience, self.rates.audience_lr, self.rates)
        self.explained_statistics = {
            name: buffer.detach().clone() for name, buffer in audience.named_buffers()
        }

        self._checked = False

    def declare(self, train_batch: Batch, val_batch: Batch) -> Declaration:
        """The four levels of one step."""
        x_BCHW, y_B = train_batch
        if not self._checked:
            self._check_audience(x_BCHW[:2])
        learner, listener = self.learners["explainer"], self.learners["audience"]
        f = explainer(as_function(learner.module))
        g = self.audience_of(as_function(listener.module))
        std_C = self._std_C(x_BCHW)
        explaining = explain_by_attack(
            f, x_BCHW, y_B, std_C, self.options, self.generator, self.processes
        )
        learns = explainer_learns(explainer(learner.own_step()), x_BCHW, y_B)
        audience_loss = audience_learns(
            self.audience_of(listener.own_step()),
            self.audience_of(listener.own_step(self.explained_statistics)),
            x_BCHW,
            y_B,
            self.options.gamma,
            explaining.shown,
            seen=self.seen_by_audience,
        )
        return Declaration(
            levels=[
                Level("explainer", learns, learner.lr, finite_difference_step=WEIGHTS_DISPLACEMENT),
                *explaining.levels,
                Level(
                    "audience",
                    audience_loss,
                    listener.lr,
                    finite_difference_step=AUDIENCE_DISPLACEMENT,
                ),
            ],
            outer=self.outer(f, g, val_batch),
            start=explaining.start,
            mode=self.options.mode or "inner_product",
        )

    def explain(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the explainer would say of a batch now, and what the audience would see of it.

        Level II alone, in the mode of a step (BatchNorm looks at this batch), but with the weights
        as they are: a step first moves them once on its batch. Nothing of the search is changed:
        weights, running statistics, gradients and random numbers are as they were.

        Args:
            batch: normalised images (B, C, H, W) and labels (B,).
            generator: of the CPU; draws what controls need, in place of the search's own.

        Returns:
            Delta (B, C, H, W) in pixel units, after a control's shuffle; and x (*) delta
            (B, C, H, W) in the units of the normalised images.

        Example:
            >>> from selfexplain.models import build_model
            >>> from selfexplain.spaces import build_supernet
            >>> size = {"num_classes": 2, "in_channels": 1}
            >>> supernet = build_supernet(
            ...     "nasbench201", image_size=8, channels=4, cells=1, **size
            ... )
            >>> lease = LeaSE(supernet, build_model("small_cnn", **size))
            >>> batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
            >>> delta_BCHW, shown_BCHW = lease.explain(batch, torch.Generator())
            >>> bool(delta_BCHW.abs().max() < lease.options.eps)
            True
        """
        x_BCHW, y_B = batch
        f = explainer(as_function(self.learners["explainer"].module))
        explaining = explain_by_attack(f, x_BCHW, y_B, self._std_C(x_BCHW), self.options, generator)
        devices = [x_BCHW.device] if x_BCHW.is_cuda else []
        with torch.random.fork_rng(devices=devices):  # dropout draws
            variables = self.variables() | explaining.start
            variables |= take_steps(explaining.levels, variables)[2]
        with torch.no_grad():
            return explaining.delta(variables), explaining.shown(variables)

    def step(
        self, train_batch: Batch, val_batch: Batch, *, move_architecture: bool = True
    ) -> dict[str, float]:
        """Move both networks' weights, and the architecture; see `ArchitectureSearch.step`.

        The losses of the explanation's steps are means over the images.
        """
        metrics = super().step(train_batch, val_batch, move_architecture=move_architecture)
        images = len(train_batch[1])
        return {
            name: loss / images if name.startswith("delta") else loss
            for name, loss in metrics.items()
        }

    def audience_of(self, function: Function) -> Network:
        """The audience as a network of the variables."""
        return audience_network(function)

    def outer(self, f: Network, g: Network, val_batch: Batch) -> Loss:
        """Level IV."""
        explainer_only = self.options.gradient_path == "explainer_only"
        lambda_ = 0.0 if explainer_only else self.options.lambda_
        return explainer_relearns(f, g, *val_batch, lambda_=lambda_)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers and strings."""
        statistics = {name: buffer.clone() for name, buffer in self.explained_statistics.items()}
        return {**super().state_dict(), "explained_statistics": statistics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        for name, buffer in self.explained_statistics.items():
            buffer.copy_(state["explained_statistics"][name])

    def _std_C(self, x_BCHW: Tensor) -> Tensor:
        if self.std_C is None:
            return torch.ones(x_BCHW.shape[1]).to(x_BCHW)
        return self.std_C.to(x_BCHW)

    def _check_audience(self, x_BCHW: Tensor) -> None:
        """Raise InputError unless explainer and audience return logits of the same classes."""
        variables = self.variables()
        networks = {
            "explainer": explainer(as_function(self.learners["explainer"].module)),
            "audience": self.audience_of(as_function(self.learners["audience"].module)),
        }
        devices = [x_BCHW.device] if x_BCHW.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            shapes = {name: tuple(net(variables, x_BCHW).shape) for name, net in networks.items()}
        if shapes["explainer"] != shapes["audience"]:
            raise InputError(
                f"for {len(x_BCHW)} images the explainer returns {shapes['explainer']} and the "
                f"audience {shapes['audience']}; pass an audience that returns logits of the same "
                "classes"
            )
        warn_of_strided_pointwise(self.learners["audience"].module)
        self._checked = True
