"""The four levels of learning by self-explanation, as losses of named variables.

    I    explainer    E*(A)     = argmin_E      CE(f(x; E, A), y)
    II   delta        delta*    = argmax_delta  CE(f(x + delta; E*, A), f(x; E*, A))
    III  audience     W*(delta) = argmin_W      CE(g(x; W), y) + gamma CE(g(x (*) delta*; W), y)
    IV   architecture             min_A         CE(f(x; E*, A), y) + lambda CE(g(x; W*), y)

I to III on training images, IV on validation images (Hosseini and Xie, arXiv 2012.12899). Each
function makes one level's loss: a scalar of variables named as in the second column. The explainer
f(v, x) and the audience g(v, x) find their weights, and the architecture, among the variables v.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from selfexplain.hypergradients import Level, World
from selfexplain.hypergradients.level import SINGLE, Function, Variable, Variables, leaves
from selfexplain.lease.options import LeaSEOptions, Shown

Loss = Callable[[Variables], Tensor]
Network = Callable[[Variables, Tensor], Tensor]
"""Of the variables and images (B, C, H, W): logits (B, K)."""
Explanation = Callable[[Variables], Tensor]
"""Of the variables: a perturbation, or what is shown of it, (B, C, H, W)."""


def explainer(function: Function) -> Network:
    """f(v, x) = f(x; E, A), of a supernet as a function (weights, x, architecture)."""
    return lambda v, x: function(v["explainer"], x, v["architecture"])


def audience(function: Function) -> Network:
    """g(v, x) = g(x; W), of a network as a function (weights, x)."""
    return lambda v, x: function(v["audience"], x)


def explainer_learns(f: Network, x_BCHW: Tensor, y_B: Tensor) -> Loss:
    """Level I: CE(f(x; E, A), y), on training images."""
    return lambda v: cross_entropy(f(v, x_BCHW), y_B)


def explainer_explains(
    f: Network, x_BCHW: Tensor, delta: Explanation, target: Callable[[Tensor], Tensor]
) -> Loss:
    """Level II: the sum over images of CE(f(x + delta; E, A), target); delta climbs it.

    A sum, not a mean, as each image has a perturbation of its own.

    Args:
        f: the explainer.
        x_BCHW: training images.
        delta: the perturbation, in units of x.
        target: classes (B,) of the explainer's logits.
    """

    def loss(v: Variables) -> Tensor:
        logits_BK = f(v, x_BCHW + delta(v))
        return cross_entropy(logits_BK, target(logits_BK), reduction="sum")

    return loss


def explainer_scores(
    f: Network, x_BCHW: Tensor, delta: Explanation, target: Callable[[Tensor], Tensor]
) -> Loss:
    """In place of level II, for plain saliency: the sum over images of the target's score."""

    def loss(v: Variables) -> Tensor:
        logits_BK = f(v, x_BCHW + delta(v))
        return logits_BK.gather(1, target(logits_BK)[:, None]).sum()

    return loss


def audience_learns(
    g: Network,
    g_explained: Network,
    x_BCHW: Tensor,
    y_B: Tensor,
    gamma: float,
    explained: Explanation,
    seen: Sequence[str] = ("audience",),
) -> Loss:
    """Level III: CE(g(x; W), y) + gamma CE(g(x (*) delta; W), y), on training images.

    Args:
        g: the audience with its BatchNorm statistics of images.
        g_explained: the same with those of explained images.
        x_BCHW: images.
        y_B: their labels.
        gamma: weight of the second term; 0 leaves it out.
        explained: x (*) delta.
        seen: names of the variables that g looks at.
    """

    def loss(v: Variables) -> Tensor:
        terms = []
        if gamma:
            terms.append(gamma * cross_entropy(g_explained(v, explained(v)), y_B))
        # The other term does not depend on the explanation: where derivatives towards that alone
        # are wanted, it is left out. It comes last, so that what it draws (dropout) takes nothing
        # from the term that stays.
        if gamma == 0 or any(t.requires_grad for name in seen for t in leaves(v[name])):
            terms.append(cross_entropy(g(v, x_BCHW), y_B))
        return torch.stack(terms).sum()

    return loss


def explainer_relearns(f: Network, g: Network, x_BCHW: Tensor, y_B: Tensor, lambda_: float) -> Loss:
    """Level IV: CE(f(x; E, A), y) + lambda CE(g(x; W), y), on validation images."""

    def loss(v: Variables) -> Tensor:
        value = cross_entropy(f(v, x_BCHW), y_B)
        return value + lambda_ * cross_entropy(g(v, x_BCHW), y_B) if lambda_ else value

    return loss


class OwnPrediction:
    """The classes that the explainer predicts at its first call, made where delta is zero.

    Later calls get the same classes. (The soft prediction would not do as a target: the gradient of
    the cross-entropy against it vanishes at delta = 0.)

    Example:
        >>> target = OwnPrediction()
        >>> target(torch.tensor([[0.0, 1.0]])), target(torch.tensor([[1.0, 0.0]]))
        (tensor([1]), tensor([1]))
    """

    def __init__(self) -> None:
        self.classes_B: Tensor | None = None

    def __call__(self, logits_BK: Tensor) -> Tensor:
        """Classes (B,) of the logits of the first call."""
        if self.classes_B is None:
            self.classes_B = logits_BK.detach().argmax(1)
        return self.classes_B


# The explanation: a bounded perturbation, how it grows, and what of it the audience sees.
#
# An explanation is held as z, unbounded, in pixel units; delta = eps tanh(z / eps) is the
# perturbation, within eps and smooth in z. B images, C channels, H and W space.


TINY = 1e-12
"""Added to squares under a root, so that an image with a zero gradient stays finite."""


def bounded(z_BCHW: Tensor, eps: float) -> Tensor:
    """Delta = eps tanh(z / eps): smooth, |delta| < eps, and z itself where z is small.

    Example:
        >>> bounded(torch.tensor([0.0, 100.0]), eps=0.5)
        tensor([0.0000, 0.5000])
    """
    return eps * torch.tanh(z_BCHW / eps)


def normalised(gradient_BCHW: Tensor) -> Tensor:
    """The gradient divided by its root mean square in each image.

    Example:
        >>> normalised(torch.full((1, 1, 1, 2), 4.0))
        tensor([[[[1., 1.]]]])
    """
    mean_square = gradient_BCHW.square().mean(dim=(1, 2, 3), keepdim=True)
    # Relative to the gradient's own size, which is tiny late in training.
    return gradient_BCHW * (mean_square + TINY * mean_square.detach() + 1e-30).rsqrt()


def straight_through_sign(gradient_BCHW: Tensor) -> Tensor:
    """The sign, with the derivative of `normalised`: its own is zero almost everywhere.

    Example:
        >>> g = torch.tensor([[[[3.0, -0.1]]]], requires_grad=True)
        >>> straight_through_sign(g)
        tensor([[[[ 1., -1.]]]], grad_fn=<AddBackward0>)
    """
    smooth = normalised(gradient_BCHW)
    return smooth + (gradient_BCHW.sign() - smooth).detach()


def magnitude(gradient_BCHW: Tensor) -> Tensor:
    """The absolute gradient divided by its root mean square in each image: plain saliency.

    Example:
        >>> magnitude(torch.full((1, 1, 1, 2), -4.0))
        tensor([[[[1., 1.]]]])
    """
    return normalised(gradient_BCHW).abs()


DIRECTIONS = {"normalised": normalised, "plain": None, "sign": straight_through_sign}
"""Name of an attack -> map of the gradient along which it steps; None for the gradient."""


def shuffled(delta_BCHW: Tensor, order_BP: Tensor) -> Tensor:
    """Each image's pixels in another order.

    Args:
        delta_BCHW: (B, C, H, W).
        order_BP: (B, H * W), a permutation of the pixels for each image.

    Example:
        >>> shuffled(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[1, 0]]))
        tensor([[[[2., 1.]]]])
    """
    flat_BCP = delta_BCHW.flatten(2)
    order_BCP = order_BP[:, None, :].expand_as(flat_BCP)
    return flat_BCP.gather(2, order_BCP).reshape(delta_BCHW.shape)


def shown_to_audience(x_BCHW: Tensor, delta_BCHW: Tensor, eps: float, shown: Shown) -> Tensor:
    """The image weighted by what its prediction hangs on.

    Delta is taken in units of eps, so that what the audience sees is of an image's size; its own
    BatchNorm statistics would undo another constant.

    Args:
        x_BCHW: images as the networks see them.
        delta_BCHW: the perturbation, in pixel units.
        eps: its bound.
        shown: product, magnitude or emphasis; see `LeaSEOptions.shown`.

    Returns:
        (B, C, H, W).

    Example:
        >>> x, delta = torch.ones(1, 1, 1, 2), torch.tensor([[[[0.5, -0.25]]]])
        >>> shown_to_audience(x, delta, eps=0.5, shown="emphasis")
        tensor([[[[2.0000, 1.5000]]]])
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
        shown: what the audience sees beside the images, of the variables.
    """

    levels: list[Level]
    start: dict[str, Variable]
    delta: Explanation
    shown: Explanation


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
    the earlier ones ended, and the chain rule runs through all of them.

    Args:
        f: the explainer.
        x_BCHW: normalised images.
        y_B: their labels.
        std_C: by which their pixels were divided.
        options: see `LeaSEOptions`.
        generator: of the CPU; draws what controls need, for the images of all processes.
        processes: those that share the batch; `x_BCHW` is this one's part of it.

    Example:
        >>> def f(v, x):
        ...     return torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1)
        >>> x, y = torch.ones(2, 1, 4, 4), torch.tensor([0, 1])
        >>> explaining = explain_by_attack(
        ...     f, x, y, torch.ones(1), LeaSEOptions(eps=0.5), torch.Generator()
        ... )
        >>> [level.name for level in explaining.levels]
        ['delta_1']
    """
    eps, size = options.eps, options.step_size
    if options.control == "random_delta":
        noise_BCHW = _part_of(torch.randn, x_BCHW.shape, generator, processes).to(x_BCHW)
        constant_BCHW = bounded(options.explanation_steps * size * noise_BCHW, eps)
        return _shown([], {}, lambda v: constant_BCHW, x_BCHW, options)
    names = [f"delta_{step + 1}" for step in range(options.explanation_steps)]
    target: Callable[[Tensor], Tensor] = OwnPrediction()
    if options.target == "label":
        target = _always(y_B)
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
        pixels = (len(x_BCHW), x_BCHW.shape[2] * x_BCHW.shape[3])
        order_BP = _part_of(torch.rand, pixels, generator, processes).argsort(1)
        delta = _shuffled(delta, order_BP.to(x_BCHW.device))
    start: dict[str, Variable] = {name: torch.zeros_like(x_BCHW) for name in names}
    return _shown(levels, start, delta, x_BCHW, options)


def _shown(
    levels: list[Level],
    start: dict[str, Variable],
    delta: Explanation,
    x_BCHW: Tensor,
    options: LeaSEOptions,
) -> Explaining:
    def shown(v: Variables) -> Tensor:
        delta_BCHW = delta(v)
        if options.gradient_path != "full":
            delta_BCHW = delta_BCHW.detach()
        return shown_to_audience(x_BCHW, delta_BCHW, options.eps, options.shown)

    return Explaining(levels, start, delta, shown)


def _bounded_sum(names: list[str], eps: float) -> Explanation:
    """Delta of the steps' variables."""

    def delta(v: Variables) -> Tensor:
        z_BCHW = torch.zeros(())
        for name in names:
            step = v[name]
            assert isinstance(step, Tensor)
            z_BCHW = step if name == names[0] else z_BCHW + step
        return bounded(z_BCHW, eps)

    return delta


def _in_units_of_x(delta: Explanation, std_C: Tensor) -> Explanation:
    return lambda v: delta(v) / std_C[:, None, None]


def _shuffled(delta: Explanation, order_BP: Tensor) -> Explanation:
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


def _always(y_B: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits_BK: y_B
