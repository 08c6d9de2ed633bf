"""Saliency-aware architecture search, as a declaration on the levels of LeaSE."""

import copy
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from selfexplain.errors import InputError
from selfexplain.hypergradients import World
from selfexplain.hypergradients.level import SINGLE, Function
from selfexplain.lease.bases import Base
from selfexplain.lease.lease import LeaSE, with_gradient_path
from selfexplain.lease.options import LeaSEOptions, Rates
from selfexplain.lease.search import Batch, Loss, Network
from selfexplain.spaces import Supernet


class SANAS(LeaSE):
    """Saliency-aware neural architecture search (Hosseini and Xie, NeurIPS 2022).

    The explainer is its own audience: a second copy of the supernet's weights learns from the
    images that the first one explains, and its validation loss moves the architecture that both
    share.

        E' = E - lr grad_E CE(f(x; E, A), y)
        delta = argmax CE(f(x + delta; E', A), f(x; E', A))
        W' = W - lr grad_W CE(f(x; W, A), y) + gamma CE(f(x (*) delta; W, A), y)
        min_A CE(f(x; W', A), y)                                             on validation images

    The abstract fixes the four stages; that plain images stay with the explained ones, and that
    delta is by default detached (`gradient_path="no_explanation"`), are choices of ours.

    Args:
        supernet: the network; trained in place.
        options: of LeaSE; lambda is not used.
        rates: how weights and architecture are updated.
        std_C: standard deviations by which the images' pixels were divided.
        seed: of the start architecture, and of what controls draw.
        processes: those that share each batch, equal parts each; all are then updated alike.
        base: how the architecture becomes the weights of the operations; None for a softmax.

    Example:
        >>> import torch
        >>> from selfexplain.spaces import build_supernet
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=2, in_channels=1, image_size=8, channels=4, cells=1
        ... )
        >>> search = SANAS(supernet)
        >>> batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> sorted(search.step(batch, batch))
        ['audience', 'delta_1', 'explainer', 'validation']
    """

    audience_sees_architecture = True

    def __init__(
        self,
        supernet: Supernet,
        *,
        options: LeaSEOptions | None = None,
        rates: Rates | None = None,
        std_C: Tensor | None = None,
        seed: int = 0,
        processes: World = SINGLE,
        base: Base | None = None,
    ) -> None:
        options = with_gradient_path(options or LeaSEOptions(), "no_explanation")
        if options.gradient_path == "explainer_only":
            raise InputError(
                "gradient_path is explainer_only, but only the second copy of the explainer "
                "updates the architecture here; pass full or no_explanation"
            )
        if options.coupling == "normalised":
            raise InputError(
                "coupling is normalised, but here the architecture has one loss, and nothing to "
                "couple; pass coupling weighted, or method lease"
            )
        rates = rates or Rates()
        second = copy.deepcopy(supernet)
        rates = replace(rates, audience_lr=rates.lr)  # the same network at the same rate
        super().__init__(
            supernet,
            second,
            options=options,
            rates=rates,
            std_C=std_C,
            seed=seed,
            processes=processes,
            base=base,
        )

    @property
    def evaluated(self) -> nn.Module:
        """The copy that learns from explained images."""
        return self.learners["audience"].module

    def audience_of(self, function: Function) -> Network:
        """The audience as a network of the variables: it shares the architecture."""
        return lambda v, x: function(v["audience"], x, v["architecture"])

    def outer(self, f: Network, g: Network, val_batch: Batch) -> Loss:  # noqa: ARG002 - LeaSE needs f
        """CE(f(x; W', A), y) alone."""
        return lambda v: cross_entropy(g(v, val_batch[0]), val_batch[1])
