"""Give a model other weights for a while: what holds by chance alone does not hold with them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def other_weights(
    modules: Iterable[nn.Module], *, zeros_only: bool = False, gain: float = 1.0
) -> Iterator[None]:
    """Lend modules parameters and buffers of other values; the model's own are not written to.

    Many a layer starts as the identity: BatchNorm in eval mode, a scale of ones, a low-rank update
    of zeros. Where such a layer lies is not to be read off the weights that a network begins with.
    Values keep their sign, zeros become positive, and whole numbers stay as they are.

    Args:
        modules: whose own tensors are replaced; their submodules' only if they are given, too.
        zeros_only: replace only tensors that are zero throughout.
        gain: how many times as large the values become.

    Example:
        >>> model = nn.BatchNorm1d(2).eval()
        >>> with other_weights([model]):
        ...     bool((model(torch.ones(1, 2)) - 1).abs().max() > 0.1)
        True
        >>> model.weight
        Parameter containing:
        tensor([1., 1.], requires_grad=True)
    """
    generator = torch.Generator().manual_seed(0)
    lent: dict[int, Tensor] = {}  # tied weights stay tied
    owned: list[tuple[nn.Module, str, Tensor]] = []
    for module in modules:
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, own in tensors:
            if _plain(own) and not (zeros_only and own.any()):
                owned.append((module, name, own))
                if id(own) not in lent:
                    lent[id(own)] = _other(own, generator, gain)
    try:
        for module, name, own in owned:
            setattr(module, name, lent[id(own)])
        yield
    finally:
        for module, name, own in owned:
            setattr(module, name, own)


def _plain(tensor: Tensor) -> bool:
    """Tell whether it is a tensor of numbers; not one of a sharded model, or without values."""
    known = type(tensor) in (Tensor, nn.Parameter, nn.Buffer)
    return known and tensor.is_floating_point() and not tensor.is_meta


@torch.no_grad()
def _other(own: Tensor, generator: torch.Generator, gain: float) -> Tensor:
    """Values between a half and one and a half of what they were, and as much for zeros."""
    factor = (0.5 + torch.rand(own.shape, generator=generator)).to(own)
    other = gain * torch.where(own == 0, factor, own * factor)
    return nn.Parameter(other, own.requires_grad) if isinstance(own, nn.Parameter) else other
