"""Leave a model as it was found: modes, buffers, random numbers."""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parallel import DistributedDataParallel

from selfexplain.errors import InputError

# Give a model other weights for a while: what holds by chance alone does not hold with them.


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


@contextmanager
def preserved(model: nn.Module, x_BCHW: Tensor, *, eval_mode: bool = False) -> Iterator[None]:
    """Run extra forwards of ``model`` without a trace, also when something raises inside.

    Kept are the train/eval mode of every submodule, all buffers bit for bit, tensors that modules
    keep as plain attributes (as old weight normalisation keeps the weight), and the global random
    state of the CPU, of ``random``, of NumPy, and of the CUDA device of ``x_BCHW`` (not while a
    CUDA graph is recorded, which keeps its own). Replicas of ``DistributedDataParallel`` do not
    talk to each other meanwhile.

    Args:
        model: that runs.
        x_BCHW: what it is given; only its device counts.
        eval_mode: whether every submodule is in eval mode meanwhile. The flag is set directly:
            ``train()`` and ``eval()`` may be overridden with side effects.

    Raises:
        InputError: a module is lazy and has not been run, so that a forward would build it.

    Example:
        >>> model = nn.BatchNorm2d(3)
        >>> with preserved(model, torch.randn(2, 3, 4, 4)):
        ...     _ = model(torch.randn(2, 3, 4, 4))
        >>> model.num_batches_tracked.item()
        0
    """
    _refuse_unbuilt(model)
    keeps_cuda = x_BCHW.is_cuda and not torch.cuda.is_current_stream_capturing()
    devices = [x_BCHW.device] if keeps_cuda else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.callback(random.setstate, random.getstate())
        if numpy := sys.modules.get("numpy"):  # else no layer draws from it
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        stack.enter_context(_modes_kept(model))
        stack.enter_context(_attributes_kept(model))
        stack.enter_context(buffers_lent(model))
        stack.enter_context(_replicas_silent(model))
        # Autocast keeps casts of weights; those made here may lack the graph that others need.
        torch.clear_autocast_cache()
        stack.callback(torch.clear_autocast_cache)
        if eval_mode:
            for module in model.modules():
                module.training = False
        yield


def _refuse_unbuilt(model: nn.Module) -> None:
    """Raise ``InputError`` if the first forward has still to decide what a module is."""
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise InputError(
                f"the model's {name!r} is lazy and has no weights yet; run the model once, as in "
                "model(images), before it is explained"
            )


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the train/eval mode of each submodule."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the tensors that modules hold as plain attributes."""
    kept = [
        (vars(module), name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    try:
        yield
    finally:
        for attributes, name, value in kept:
            attributes[name] = value


@contextmanager
def buffers_lent(model: nn.Module) -> Iterator[None]:
    """Let the forwards write into copies of the buffers, then put the originals back.

    Copying values back instead would count as an in-place change, and break the backward pass of a
    graph that the user already holds. All are lent, also those of a BatchNorm in eval mode, for a
    forward or a hook may write into them nevertheless. Backward passes write, too, where parts of
    the forward are checkpointed: those run again.

    Example:
        >>> model = nn.BatchNorm2d(3)
        >>> with buffers_lent(model):
        ...     _ = model(torch.randn(2, 3, 4, 4))
        >>> model.num_batches_tracked.item()
        0
    """
    lent = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    copies = {id(buffer): buffer.detach().clone() for _, _, buffer in lent}
    try:
        for module, name, buffer in lent:
            setattr(module, name, copies[id(buffer)])
        yield
    finally:
        for module, name, buffer in lent:
            setattr(module, name, buffer)


@contextmanager
def _replicas_silent(model: nn.Module) -> Iterator[None]:
    """Keep ``DistributedDataParallel`` from preparing a backward pass that never comes."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
                # Each forward decides whether the next one shares its buffers.
                shares = module.require_forward_param_sync
                stack.callback(setattr, module, "require_forward_param_sync", shares)
        yield
