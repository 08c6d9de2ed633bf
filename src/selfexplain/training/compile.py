"""Compile the networks of an objective, part by part.

Parts, not whole networks: explanations read a feature map by a hook, and hooks inside of compiled
code do not run. So each block is compiled on its own, what lies between blocks stays as it is, and
a block that is hooked itself runs as it was written (explanations/hooks.py).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from selfexplain.errors import InputError, first_line
from selfexplain.explanations.hooks import CALL
from selfexplain.objectives.shared.base import Objective
from selfexplain.objectives.shared.stages import CONTAINERS
from selfexplain.training.cuda_graph import is_capturable

# Let the GPU's library time its convolutions and take the fastest.


@contextmanager
def autotuned_convolutions() -> Iterator[None]:
    """Choose cuDNN's algorithms by timing them, for the time of the block.

    Training steps have one shape, so the search pays at once. Nothing changes where the user asked
    for deterministic algorithms, and nothing on a CPU.

    Example:
        >>> before = torch.backends.cudnn.benchmark
        >>> with autotuned_convolutions():
        ...     torch.backends.cudnn.benchmark
        True
        >>> torch.backends.cudnn.benchmark == before
        True
    """
    before = torch.backends.cudnn.benchmark
    wants_the_same = torch.backends.cudnn.deterministic or (
        torch.are_deterministic_algorithms_enabled()
    )
    torch.backends.cudnn.benchmark = before or not wants_the_same
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


MOST_VARIANTS = 64
"""Versions of compiled code that are kept, one for each kind of block and shape."""


class CompiledParts:
    """The compiled parts of an objective's networks, to be put in place for training steps.

    Args:
        objective: whose networks are compiled; nothing is changed until `used`.
        backend: of torch.compile.

    Example:
        >>> from selfexplain.objectives import Standard
        >>> model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), nn.ReLU())
        >>> parts = CompiledParts(Standard(model), backend="eager")
        >>> with parts.used():
        ...     logits = model(torch.zeros(2, 1, 2, 2))
        >>> model[0]._compiled_call_impl is None
        True
    """

    def __init__(self, objective: Objective, backend: str = "inductor") -> None:
        self._calls = [
            (part, torch.compile(_call_of(part), dynamic=False, backend=backend))
            for network in networks_of(objective)
            for part in parts_of(network)
        ]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Run the parts compiled for the time of the block.

        Raises:
            InputError: this machine cannot compile them.
        """
        # Here, as its import takes as long as that of all of torch.
        from torch import _dynamo as dynamo
        from torch._dynamo.exc import TorchDynamoException

        with ExitStack() as stack:
            for part, call in self._calls:
                stack.callback(setattr, part, CALL, getattr(part, CALL))
                setattr(part, CALL, call)
            stack.enter_context(dynamo.config.patch(recompile_limit=MOST_VARIANTS))
            try:
                yield
            except TorchDynamoException as error:
                raise InputError(
                    f"the model cannot be compiled here ({first_line(error)}); leave out --compile"
                ) from error


def compiled_steps(
    parts: CompiledParts | None, objective: Objective, *, cuda_graph: bool
) -> AbstractContextManager[None]:
    """What an objective's steps run in, as it is now: with its compiled parts where that pays.

    From Python a compiled block starts more slowly than the few kernels it replaces, so that steps
    which were to be recorded and cannot be are slower compiled than as written.

    Args:
        parts: the objective's; None if nothing is to be compiled.
        objective: whose steps they are.
        cuda_graph: whether steps are recorded where they can be.

    Example:
        >>> from selfexplain.objectives import Standard
        >>> objective = Standard(nn.Linear(4, 3))
        >>> with compiled_steps(CompiledParts(objective, "eager"), objective, cuda_graph=True):
        ...     print(objective.model(torch.zeros(2, 4)).shape)
        torch.Size([2, 3])
    """
    if parts is None or (cuda_graph and not is_capturable(objective)):
        return nullcontext()
    return parts.used()


def _call_of(part: nn.Module) -> Callable[..., Any]:
    """What a call of the part does; torch.compile skips functions of torch.nn, but not this one."""

    def call(*args: Any, **kwargs: Any) -> Any:
        # What torch compiles of a module.
        return part._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]  # noqa: SLF001

    return call


def networks_of(objective: Objective) -> list[nn.Module]:
    """The networks that an objective holds, each once: the model, its teacher, its peers.

    Example:
        >>> from selfexplain.objectives import Standard
        >>> networks_of(Standard(nn.Linear(4, 3)))
        [Linear(in_features=4, out_features=3, bias=True)]
    """
    found: list[nn.Module] = []
    for child in objective.children():
        if isinstance(child, Objective):
            found += networks_of(child)
        elif isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found += child.children()
        elif next(child.parameters(), None) is not None:  # else it only remembers
            found.append(child)
    return list(dict.fromkeys(found))


def parts_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network; the network itself if it has none.

    Example:
        >>> from selfexplain.models import build_model
        >>> len(parts_of(build_model("resnet18", num_classes=10, in_channels=3)))
        9
    """
    return list(_blocks(network)) or [network]


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Modules made of several layers, as large as can be without holding another block."""
    for child in network.children():
        if not _is_composite(child):
            continue
        if _holds_blocks(child) or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _blocks(child)
        else:
            yield child


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a container in the module, or the module itself, holds modules of several layers."""
    return any(
        _is_composite(element)
        for container in module.modules()
        if isinstance(container, CONTAINERS)
        for element in container.children()
    )


def _is_composite(module: nn.Module) -> bool:
    return next(module.children(), None) is not None
