"""Tiny real networks for the levels of LeaSE, and smooth activations for the oracle."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from selfexplain.hypergradients.batch_norm import batch_norm_arguments
from selfexplain.hypergradients.level import leaves
from selfexplain.lease.search import ArchitectureSearch, Batch, Declaration
from selfexplain.spaces import Supernet, build_supernet

CLASSES = 3


class SmoothReLU(TorchFunctionMode):
    """While active, ReLU is a softplus.

    A gradient step through a ReLU jumps where a unit switches, so that differences of the composed
    map across such a switch mean nothing.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.relu:
            return F.softplus(args[0], beta=2)
        return func(*args, **(kwargs or {}))


def per_image_norm() -> Any:
    """While active, BatchNorm normalises each image by itself: images do not see each other."""

    def normalise(*args: Any, **kwargs: Any) -> Tensor:
        given = batch_norm_arguments(args, kwargs)
        x_BCHW, weight_C, bias_C = (given.get(n) for n in ("input", "weight", "bias"))
        y_BCHW = F.group_norm(x_BCHW, 1)
        y_BCHW = y_BCHW if weight_C is None else y_BCHW * weight_C[:, None, None]
        return y_BCHW if bias_C is None else y_BCHW + bias_C[:, None, None]

    # not a TorchFunctionMode: one that is active inside of it would take the calls first
    return mock.patch.object(F, "batch_norm", normalise)


def supernet(seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    net = build_supernet(
        "nasbench201", num_classes=CLASSES, in_channels=1, image_size=8, channels=4, cells=1
    )
    return net.double()


def audience(seed: int = 1, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    ]
    return nn.Sequential(*layers).double()


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x_BCHW = torch.randn(6, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x_BCHW, torch.tensor([0, 1, 2, 0, 1, 2])


def declared(search: ArchitectureSearch) -> tuple[Declaration, dict[str, Any]]:
    """One step of a search as levels, and the start values of all variables."""
    # An architecture away from its start, where all operations weigh nearly the same.
    generator = torch.Generator().manual_seed(5)
    dtype = next(search.supernet.parameters()).dtype
    (x, y), (xv, yv) = batch(2), batch(3)
    step = search.declare((x.to(dtype), y), (xv.to(dtype), yv))
    architecture = {
        name: torch.randn(t.shape, generator=generator).to(dtype)
        for name, t in search.architecture.items()
    }
    weights = {name: learner.weights for name, learner in search.learners.items()}
    # The oracle's losses are smooth: differences want the small displacement for such.
    levels = [replace(level, finite_difference_step=None) for level in step.levels]
    step = replace(step, levels=levels)
    return step, {"architecture": architecture, **weights, **step.start}


def relative_error(a: Any, b: Any) -> float:
    x, y = (torch.cat([t.flatten() for t in leaves(v)]) for v in (a, b))
    return float((x - y).norm() / y.norm())


def slopes(function: Callable[[dict[str, Tensor]], Tensor], at: Any, step: float) -> Any:
    """Fourth-order differences of a function of an architecture along three random directions."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for _ in range(3):
        along = {k: torch.randn(t.shape, generator=generator).to(t) for k, t in at.items()}

        def value(by: float, along: Any = along) -> float:
            return float(function({k: t + by * along[k] for k, t in at.items()}))

        near, far = value(step) - value(-step), value(2 * step) - value(-2 * step)
        found.append((along, (8 * near - far) / (12 * step)))
    return found
