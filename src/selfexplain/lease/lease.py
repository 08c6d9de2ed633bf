"""Learning by self-explanation for architecture search: four levels, optimised end to end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from selfexplain.errors import InputError
from selfexplain.hypergradients import Level, World, as_function, take_steps
from selfexplain.hypergradients.hypergradient import square_sum
from selfexplain.hypergradients.level import (
    SINGLE,
    Function,
    Variable,
    Variables,
    leaves,
    like,
)
from selfexplain.lease.bases import Base
from selfexplain.lease.masks import ExplainerMaps, about_median, smoothed, soft_mask
from selfexplain.lease.options import GradientPath, LeaSEOptions, Rates, Shown
from selfexplain.lease.search import (
    WEIGHTS_DISPLACEMENT,
    ArchitectureSearch,
    Batch,
    Declaration,
    ImageFunction,
    Learner,
    Loss,
    Network,
    OwnPrediction,
    audience_learns,
    audience_learns_explained,
    explainer,
    explainer_explains,
    explainer_learns,
    explainer_relearns,
    explainer_scores,
)
from selfexplain.lease.search import audience as audience_network
from selfexplain.models.pointwise import warn_of_strided_pointwise
from selfexplain.spaces import Supernet

# The explanation: a bounded perturbation, how it grows, and what of it the audience sees.
#
# An explanation is held as z, unbounded, in pixel units; delta = eps tanh(z / eps) is the
# perturbation, within eps and smooth in z. B images, C channels, H and W space.


TINY = 1e-12
"""Added to squares under a root, so that an image with a zero gradient stays finite."""


def bounded(z_BCHW: Tensor, eps: float) -> Tensor:
    """Delta = eps tanh(z / eps): smooth, |delta| < eps, and z itself where z is small."""
    return eps * torch.tanh(z_BCHW / eps)


def normalised(gradient_BCHW: Tensor) -> Tensor:
    """The gradient divided by its root mean square in each image."""
    mean_square = gradient_BCHW.square().mean(dim=(1, 2, 3), keepdim=True)
    # Relative to the gradient's own size, which is tiny late in training.
    return gradient_BCHW * (mean_square + TINY * mean_square.detach() + 1e-30).rsqrt()


def straight_through_sign(gradient_BCHW: Tensor) -> Tensor:
    """The sign, with the derivative of `normalised`: its own is zero almost everywhere."""
    smooth = normalised(gradient_BCHW)
    return smooth + (gradient_BCHW.sign() - smooth).detach()


def magnitude(gradient_BCHW: Tensor) -> Tensor:
    """The absolute gradient divided by its root mean square in each image: plain saliency."""
    return normalised(gradient_BCHW).abs()


DIRECTIONS = {"normalised": normalised, "plain": None, "sign": straight_through_sign}
"""Name of an attack -> map of the gradient along which it steps; None for the gradient."""


def shuffled(delta_BCHW: Tensor, order_BP: Tensor) -> Tensor:
    """Each image's pixels (B, C, H, W) in another order: a permutation (B, H * W) for each."""
    flat_BCP = delta_BCHW.flatten(2)
    order_BCP = order_BP[:, None, :].expand_as(flat_BCP)
    return flat_BCP.gather(2, order_BCP).reshape(delta_BCHW.shape)


def squared(gradient_BCHW: Tensor) -> Tensor:
    """The squared gradient divided by its mean in each image."""
    return normalised(gradient_BCHW).square()


def shown_to_audience(x_BCHW: Tensor, delta_BCHW: Tensor, eps: float, shown: Shown) -> Tensor:
    """The image weighted by what its prediction hangs on: (B, C, H, W); see masks.py for the rest.

    Delta is taken in units of eps, its bound in pixel units, so that what the audience sees is of
    an image's size; its own BatchNorm statistics would undo another constant.
    """
    if shown == "product":
        return x_BCHW * delta_BCHW / eps
    size_BCHW = delta_BCHW.abs()
    if shown == "magnitude":
        return x_BCHW * size_BCHW / size_BCHW.amax(dim=(1, 2, 3), keepdim=True).clamp(min=TINY)
    return x_BCHW * (1 + size_BCHW / eps)


# From options and a batch to the levels that make an explanation, and what is shown of it.


DISPLACEMENT = 0.3
"""Root mean square displacement of the pixels in a difference, in units of eps: large enough for
ReLUs, where the bound eps tanh(z / eps) is still nearly straight."""


@dataclass(frozen=True, slots=True)
class Explaining:
    """How one batch is explained.

    Args:
        levels: one for each step of the explanation.
        start: their start values, zeros.
        delta: the perturbation after all steps, in pixel units, of the variables.
        shown: what the audience sees besides the images, from the variables.
    """

    levels: list[Level]
    start: dict[str, Variable]
    delta: ImageFunction
    shown: ImageFunction


def explain_by_attack(
    f: Network,
    x_BCHW: Tensor,
    y_B: Tensor,
    std_C: Tensor,
    options: LeaSEOptions,
    generator: torch.Generator,
    processes: World = SINGLE,
) -> Explaining:
    """Level II for a batch, in as many steps as the options say, or its control.

    The sum of the steps' variables is z; each starts at zero, so that a later step continues where
    the earlier ones ended, and the chain rule runs through all of them. The pixels of the
    normalised images were divided by `std_C`; the generator, of the CPU, draws what controls need
    for the images of all processes, of which `x_BCHW` is this one's part.
    """
    eps, size = options.eps, options.step_size
    if options.control == "random_delta":
        noise_BCHW = _part_of(torch.randn, x_BCHW.shape, generator, processes).to(x_BCHW)
        constant_BCHW = bounded(options.explanation_steps * size * noise_BCHW, eps)
        return _shown([], {}, lambda v: constant_BCHW, x_BCHW, options)
    names = [f"delta_{step + 1}" for step in range(options.explanation_steps)]
    target = _target(options, y_B)
    levels = []
    for step, name in enumerate(names):
        perturbation = _in_units_of_x(_bounded_sum(names[: step + 1], eps), std_C)
        loss: Loss = explainer_explains(f, x_BCHW, perturbation, target)
        direction = DIRECTIONS[options.attack]
        if options.control == "saliency":
            loss, direction = explainer_scores(f, x_BCHW, perturbation, target), magnitude
        levels.append(
            Level(
                name,
                loss,
                size,
                maximize=True,
                direction=direction,
                finite_difference_step=DISPLACEMENT * eps,
                shared=False,
            )
        )
    delta = _bounded_sum(names, eps)
    if options.control == "shuffled_delta":
        delta = _shuffled(delta, x_BCHW, generator, processes)
    start: dict[str, Variable] = {name: torch.zeros_like(x_BCHW) for name in names}
    return _shown(levels, start, delta, x_BCHW, options)


def _shown(
    levels: list[Level],
    start: dict[str, Variable],
    delta: ImageFunction,
    x_BCHW: Tensor,
    options: LeaSEOptions,
) -> Explaining:
    if options.shown == "soft_mask":
        shown = _masked(lambda v: smoothed(delta(v).abs()) / options.eps, x_BCHW, options)
        return Explaining(levels, start, delta, shown)

    def shown_of_delta(v: Variables) -> Tensor:
        delta_BCHW = delta(v)
        if options.gradient_path != "full":
            delta_BCHW = delta_BCHW.detach()
        return shown_to_audience(x_BCHW, delta_BCHW, options.eps, options.shown)

    return Explaining(levels, start, delta, shown_of_delta)


def explain_by_map(
    f: Network,
    maps: ExplainerMaps,
    x_BCHW: Tensor,
    y_B: Tensor,
    std_C: Tensor,
    options: LeaSEOptions,
    generator: torch.Generator,
    processes: World = SINGLE,
) -> Explaining:
    """The same for a soft mask by a class activation map, or by squared input gradients.

    Squared gradients are a level, a step from zero along the squared gradient, so that all modes
    differentiate them. A class activation map is none: level III looks at the explainer itself.
    Delta is the evidence about its median, bounded as an attack is: within eps, zero at the median.
    """
    target = _target(options, y_B)
    levels: list[Level] = []
    start: dict[str, Variable] = {}
    if options.explanation == "squared_gradients":
        name = "delta_1"
        loss = explainer_scores(f, x_BCHW, _in_units_of_x(_tensor_of(name), std_C), target)
        levels.append(
            Level(
                name,
                loss,
                1.0,
                maximize=True,
                direction=squared,
                finite_difference_step=DISPLACEMENT * options.eps,
                shared=False,
            )
        )
        start[name] = torch.zeros_like(x_BCHW)
    evidence: ImageFunction
    if levels:
        evidence = lambda v: smoothed(_tensor_of(name)(v))  # noqa: E731
    else:
        evidence = lambda v: maps(v, x_BCHW, target)  # noqa: E731
    if options.control == "shuffled_delta":
        evidence = _shuffled(evidence, x_BCHW, generator, processes)

    def delta(v: Variables) -> Tensor:
        z_B1HW = options.eps * about_median(evidence(v))
        return bounded(z_B1HW, options.eps).expand_as(x_BCHW)

    return Explaining(levels, start, delta, _masked(evidence, x_BCHW, options))


def _masked(evidence: ImageFunction, x_BCHW: Tensor, options: LeaSEOptions) -> ImageFunction:
    """The images times the soft mask of the evidence (B, 1, H, W)."""

    def shown(v: Variables) -> Tensor:
        mask_B1HW = soft_mask(evidence(v), options.tau)
        return x_BCHW * (mask_B1HW if options.gradient_path == "full" else mask_B1HW.detach())

    return shown


def _target(options: LeaSEOptions, y_B: Tensor) -> Callable[[Tensor], Tensor]:
    return _always(y_B) if options.target == "label" else OwnPrediction()


def _tensor_of(name: str) -> ImageFunction:
    def variable(v: Variables) -> Tensor:
        tensor = v[name]
        assert isinstance(tensor, Tensor)
        return tensor

    return variable


def _bounded_sum(names: list[str], eps: float) -> ImageFunction:
    """Delta of the steps' variables."""

    def delta(v: Variables) -> Tensor:
        z_BCHW = torch.zeros(())
        for name in names:
            step = v[name]
            assert isinstance(step, Tensor)
            z_BCHW = step if name == names[0] else z_BCHW + step
        return bounded(z_BCHW, eps)

    return delta


def _in_units_of_x(delta: ImageFunction, std_C: Tensor) -> ImageFunction:
    return lambda v: delta(v) / std_C[:, None, None]


def _shuffled(
    delta: ImageFunction, x_BCHW: Tensor, generator: torch.Generator, processes: World
) -> ImageFunction:
    """The control: each image's pixels in another order."""
    pixels = (len(x_BCHW), x_BCHW.shape[2] * x_BCHW.shape[3])
    order_BP = _part_of(torch.rand, pixels, generator, processes).argsort(1).to(x_BCHW.device)
    return lambda v: shuffled(delta(v), order_BP)


def _part_of(
    draw: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator,
    processes: World,
) -> Tensor:
    """This process's part of what one process would draw for all images."""
    whole = draw((processes.count * shape[0], *shape[1:]), generator=generator)
    return whole.chunk(processes.count)[processes.rank]


def _sum_of(first: Loss, second: Loss) -> Loss:
    return lambda v: first(v) + second(v)


def _always(y_B: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits_BK: y_B


# The search.


AUDIENCE_DISPLACEMENT = 1e-2
"""Root mean square displacement of the audience's weights in a difference: the largest that still
had the sign of the exact product right in most entries, see docs/methods/lease.md."""


class NormalisedCoupling:
    """g = g_direct + share (|g_direct| / |g_audience|) g_audience, of running means.

    The part that comes through the explanations is a few per cent of the direct one in size, and
    the balance moves along a search; so both sizes are measured, and the audience's part, which is
    noisy, is averaged over steps.

    Args:
        momentum: fraction of the means that each step keeps.

    Example:
        >>> coupled = NormalisedCoupling(momentum=0.9)
        >>> direct, audience = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.1])
        >>> coupled.update(direct, audience)
        >>> coupled.join(direct, share=0.5)
        tensor([3.0000, 6.5000])
    """

    def __init__(self, momentum: float) -> None:
        self.momentum, self.steps = momentum, 0
        self.means: list[Tensor] = []
        """Of |g_direct| and |g_audience|, scalars, and of g_audience's tensors, all from zero."""

    def update(self, direct: Variable, audience: Variable) -> None:
        """Take a step's gradients into the means."""
        norms = [square_sum(leaves(part)).sqrt() for part in (direct, audience)]
        new = [*norms, *leaves(audience)]
        kept = self.means or [torch.zeros_like(tensor) for tensor in new]
        self.means = [
            self.momentum * mean + (1 - self.momentum) * tensor
            for mean, tensor in zip(kept, new, strict=True)
        ]
        self.steps += 1

    def join(self, direct: Variable, share: float) -> Variable:
        """The direct gradient, and the audience's mean at a share of the direct one's mean size."""
        if not self.means:
            return direct
        mean_direct, mean_audience, *audience = self.means
        # Means from zero are too small by one factor, which the quotient of sizes is free of.
        bias = 1 - self.momentum**self.steps
        scale = share * mean_direct / mean_audience.clamp_min(TINY) / bias
        pairs = zip(leaves(direct), audience, strict=True)
        return like(direct, [d + scale * a for d, a in pairs])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"means": [mean.clone() for mean in self.means], "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.means = [mean.clone() for mean in state["means"]]
        self.steps = state["steps"]


def with_gradient_path(options: LeaSEOptions, default: GradientPath) -> LeaSEOptions:
    """The options with a gradient path, the default one if they name none."""
    return replace(options, gradient_path=options.gradient_path or default)


class LeaSE(ArchitectureSearch):
    """Learning by self-explanation (Hosseini and Xie, arXiv 2012.12899).

    An explainer with a learnable architecture learns, explains its predictions by what perturbs
    them, an audience learns from the explanations, and the architecture is updated such that both
    then do well on held-out images (search.py has the formulas). One gradient step stands for each
    of the inner levels, and the architecture's gradient runs back through all of them.

    The audience has an optimizer of its own, and BatchNorm statistics of its own for images and
    for explained images; its weights see both.

    Args:
        supernet: the explainer; trained in place.
        audience: any classifier (B, C, H, W) -> (B, K) on the same device; trained in place.
        options: see `LeaSEOptions`.
        rates: how weights and architecture are updated.
        std_C: standard deviations by which the images' pixels were divided, so that `eps` is in
            pixel units; None for images in [0, 1].
        seed: of the start architecture, and of what controls draw.
        processes: those that share each batch, equal parts each; all are then updated alike.
        base: how the architecture becomes the weights of the operations; None for a softmax.

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

    audience_sees_architecture = False
    """Whether the audience's output depends on the architecture, besides its weights and images."""

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
        base: Base | None = None,
    ) -> None:
        super().__init__(supernet, rates or Rates(), seed, processes, base)
        self.options = with_gradient_path(options or LeaSEOptions(), "full")
        self.std_C = std_C
        self.learners["audience"] = Learner(audience, self.rates.audience_lr, self.rates)
        self.explained_statistics = {
            name: buffer.detach().clone() for name, buffer in audience.named_buffers()
        }

        self.maps = ExplainerMaps(supernet)
        self.coupled = NormalisedCoupling(self.options.coupling_momentum)
        self._checked = False

    def declare(self, train_batch: Batch, val_batch: Batch) -> Declaration:
        """The four levels of one step."""
        x_BCHW, y_B = train_batch
        if not self._checked:
            self._check_audience(x_BCHW[:2])
        learner, listener = self.learners["explainer"], self.learners["audience"]
        f = explainer(as_function(learner.module))
        g = self.audience_of(as_function(listener.module))
        explaining = self._explaining(f, train_batch, self.generator, self.processes)
        learns = explainer_learns(explainer(learner.own_step()), x_BCHW, y_B)
        return Declaration(
            levels=[
                Level("explainer", learns, learner.lr, finite_difference_step=WEIGHTS_DISPLACEMENT),
                *explaining.levels,
                self._audience_level(listener, x_BCHW, y_B, explaining.shown),
            ],
            outer=self.outer(f, g, val_batch),
            audience_outer=self.audience_outer(g, val_batch),
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
        x_BCHW = batch[0]
        f = explainer(as_function(self.learners["explainer"].module))
        explaining = self._explaining(f, batch, generator)
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

    def _audience_level(
        self, listener: Learner, x_BCHW: Tensor, y_B: Tensor, shown: ImageFunction
    ) -> Level:
        """Level III; the term of plain images is left out of all mixed products if it can be.

        It cannot where it sees the architecture, or where the loss's own Hessian is wanted.

        Of the two terms the one of explained images comes first, so that what the other draws
        (dropout) takes nothing from it where it is evaluated alone.
        """
        plain = audience_learns(self.audience_of(listener.own_step()), x_BCHW, y_B)
        explained = audience_learns_explained(
            self.audience_of(listener.own_step(self.explained_statistics)),
            y_B,
            self.options.gamma,
            shown,
        )
        loss: Loss = explained
        independent: Loss | None = plain
        if self.options.gamma == 0:
            loss, independent = plain, None
        elif self.audience_sees_architecture or self._neumann_terms > 1:
            loss, independent = _sum_of(explained, plain), None
        return Level(
            "audience",
            loss,
            listener.lr,
            finite_difference_step=AUDIENCE_DISPLACEMENT,
            independent_loss=independent,
            neumann_terms=self._neumann_terms,
        )

    @property
    def _neumann_terms(self) -> int:
        neumann = self.options.audience_inverse == "neumann"
        return self.options.neumann_terms if neumann else 1

    def audience_of(self, function: Function) -> Network:
        """The audience as a network of the variables."""
        return audience_network(function)

    def outer(self, f: Network, g: Network, val_batch: Batch) -> Loss:
        """Level IV; with coupling normalised, the explainer's part of it."""
        direct = self.options.coupling == "normalised"
        explainer_only = self.options.gradient_path == "explainer_only"
        lambda_ = 0.0 if direct or explainer_only else self.options.lambda_
        return explainer_relearns(f, g, *val_batch, lambda_=lambda_)

    def audience_outer(self, g: Network, val_batch: Batch) -> Loss | None:
        """The audience's part of level IV, where it is normalised and so needed alone."""
        if self.options.coupling == "weighted":
            return None
        return lambda v: cross_entropy(g(v, val_batch[0]), val_batch[1])

    def join(self, hypergradients: Sequence[Variable]) -> Variable:
        """The weighted sum as it is; or the normalised one, in which running means are taken."""
        if self.options.coupling == "weighted":
            return super().join(hypergradients)
        direct, audience = hypergradients
        self.coupled.update(direct, audience)
        return self.coupled.join(direct, self.options.share)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers and strings."""
        statistics = {name: buffer.clone() for name, buffer in self.explained_statistics.items()}
        state = {**super().state_dict(), "explained_statistics": statistics}
        if self.options.coupling == "normalised":
            state["coupling"] = self.coupled.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        for name, buffer in self.explained_statistics.items():
            buffer.copy_(state["explained_statistics"][name])
        if self.options.coupling == "normalised":
            self.coupled.load_state_dict(state["coupling"])

    def _explaining(
        self,
        f: Network,
        batch: Batch,
        generator: torch.Generator,
        processes: World = SINGLE,
    ) -> Explaining:
        """Level II for a batch, as the options say."""
        context = (*batch, self._std_C(batch[0]), self.options, generator, processes)
        if self.options.explanation == "attack":
            return explain_by_attack(f, *context)
        return explain_by_map(f, self.maps, *context)

    def _std_C(self, x_BCHW: Tensor) -> Tensor:
        if self.std_C is None:
            return x_BCHW.new_ones(x_BCHW.shape[1])
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
