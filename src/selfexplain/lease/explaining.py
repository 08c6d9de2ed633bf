"""From options and a batch to the levels that make an explanation, and what is shown of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfexplain.lease.explanation import (
    DIRECTIONS,
    bounded,
    magnitude,
    shown_to_audience,
    shuffled,
)
from selfexplain.lease.levels import (
    Explanation,
    Loss,
    Network,
    OwnPrediction,
    explainer_explains,
    explainer_scores,
)
from selfexplain.lease.options import LeaSEOptions
from selfexplain.multilevel import Level, Processes
from selfexplain.multilevel.processes import ALONE
from selfexplain.multilevel.variables import Variable, Variables

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
    processes: Processes = ALONE,
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
                displacement=DISPLACEMENT * eps,
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
    processes: Processes,
) -> Tensor:
    """This process's part of what one process would draw for all images."""
    whole = draw((processes.count * shape[0], *shape[1:]), generator=generator)
    return whole.chunk(processes.count)[processes.rank]


def _always(y_B: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits_BK: y_B
