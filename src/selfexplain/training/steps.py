"""How a training step runs: as it is written, with its networks compiled, or recorded and replayed.

Compiled are parts, not whole networks: explanations read a feature map by a hook, and hooks inside
of compiled code do not run. So each block is compiled on its own, what lies between blocks stays as
it is, and a block that is hooked itself runs as it was written (explanations/hooks.py).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError, first_line
from selfexplain.explanations.hooks import CALL
from selfexplain.objectives.shared.base import Objective
from selfexplain.objectives.shared.stages import CONTAINERS

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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
    """The context of an objective's steps, as it is now: with compiled parts where that pays.

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
    """The networks that an objective holds, each once: the model, its teacher, its peers."""
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
    """The blocks of a network; the network itself if it has none."""
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


# Record a training step on the GPU once, and replay it.
#
# A step of a small network is hundreds of short kernels, which Python starts more slowly than the
# GPU runs them. A CUDA graph starts them all at once.


Out = TypeVar("Out")

Step = Callable[..., dict[str, Tensor]]
"""Takes tensors, leaves gradients in `.grad`, and returns an objective's terms."""


ORDINARY_STEPS = 2
"""Steps that run as written before one is recorded; in the first, libraries set themselves up."""


def gradient_step(
    objective: Objective,
    wrapped: Any,
    optimizer: Any,
    fabric: Fabric,
    *,
    cuda_graph: bool = False,
    before: Step | None = None,
) -> Step:
    """Forward and backward of an objective: a function of a batch that leaves the gradients.

    It returns the objective's terms, detached.

    Args:
        objective: that is trained.
        wrapped: the same, as Fabric gave it back.
        optimizer: its optimizer, as Fabric gave it back.
        fabric: where.
        cuda_graph: record it, if the objective allows it.
        before: the step of the epoch before, or another whose gradients are used before the next
            step, whose memory a recording shares.

    Example:
        >>> from selfexplain.objectives import Standard
        >>> from lightning_fabric import Fabric
        >>> objective = Standard(torch.nn.Linear(4, 3))
        >>> fabric, sgd = Fabric(accelerator="cpu", devices=1), torch.optim.SGD
        >>> wrapped, optimizer = fabric.setup(objective, sgd(objective.parameters(), lr=0.1))
        >>> step = gradient_step(objective, wrapped, optimizer, fabric)
        >>> sorted(step(torch.ones(2, 4), torch.tensor([0, 2])))
        ['loss', 'output']
        >>> objective.model.weight.grad.shape
        torch.Size([3, 4])
    """

    def step(*batch: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = wrapped(*batch)
        optimizer.zero_grad()
        fabric.backward(out["loss"])
        # Detached, or what is left of the autograd graph would reach into the recording of a step.
        return {name: term.detach() for name, term in out.items()}

    if not (cuda_graph and is_capturable(objective)):
        return step
    return RecordedStep(step, before if isinstance(before, RecordedStep) else None)


def is_capturable(objective: Objective) -> bool:
    """Whether an objective's steps may be recorded, as it is now."""
    # A subclass may count or draw, so it has to say for itself that it does not.
    return "capturable" in vars(type(objective)) and objective.capturable


class RecordedStep(Generic[Out]):
    """A step (forward and backward) that is replayed from its third call on.

    What a recording holds is the work of the GPU alone: nothing that Python counts or decides in
    the step happens again in a replay. So make a new one whenever the step changes, as for every
    epoch. A call with tensors of another shape than the one before it begins anew: it counts as the
    first, because an objective that remembers a batch takes new memory for it.

    Args:
        step: is given a batch on the GPU, returns detached tensors in any form, and sets gradients,
            if it leaves any, to None before it makes new ones.
        before: a recorded step that shares its memory. What one of them returned, and its
            gradients, are to be used before another is called.

    Raises:
        InputError: at the third call in a row with tensors of one shape, if the step does what
            cannot be recorded, such as asking the GPU for a number.
    """

    def __init__(self, step: Callable[..., Out], before: RecordedStep[Any] | None = None) -> None:
        self.step = step
        self.memory: GraphMemory = GraphMemory() if before is None else before.memory
        self.graph: torch.cuda.CUDAGraph | None = None
        self._ordinary = 0
        self._shapes: list[torch.Size] = []
        self._batch: tuple[Tensor, ...] = ()
        self._out: Out

    def __call__(self, *batch: Tensor) -> Out:
        """What the step returns of this batch; its tensors are overwritten by the next call."""
        shapes = [t.shape for t in batch]
        if shapes != self._shapes:
            # Gradients will be new tensors, into which the graph does not write.
            self._shapes, self._ordinary, self.graph = shapes, 0, None
        if self._ordinary < ORDINARY_STEPS:
            self._ordinary += 1
            return self.step(*batch)
        if self.graph is None:
            self.graph = self._record(batch)
        for kept, new in zip(self._batch, batch, strict=True):
            kept.copy_(new)
        self.graph.replay()
        return self._out

    def _record(self, batch: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        """Record the step on copies of a batch; nothing is computed yet."""
        self._batch = tuple(t.clone() for t in batch)
        current = torch.cuda.current_stream()
        graph, stream = torch.cuda.CUDAGraph(), self.memory.stream()
        stream.wait_stream(current)
        # Not torch.cuda.graph, which empties the caches of memory first: each epoch would feel it.
        # Nor is garbage collected: an unused recording that is freed would break this one off.
        with torch.cuda.stream(stream), no_garbage_collected():
            # thread_local: other threads, which pin what a data loader has read, may go on.
            graph.capture_begin(pool=self.memory.pool(), capture_error_mode="thread_local")
            try:
                self._out = self.step(*self._batch)
            except RuntimeError as error:
                with suppress(RuntimeError):  # of the recording that was broken off
                    graph.capture_end()
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise InputError(
                    f"the step cannot be captured ({first_line(error)}); leave out --cuda-graph"
                ) from error
            graph.capture_end()
        current.wait_stream(stream)
        self.memory.last = graph
        return graph


@contextmanager
def no_garbage_collected() -> Iterator[None]:
    """Leave objects in cycles where they are, as long as this lasts."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class GraphMemory:
    """The memory of recordings of which each is done with before another is replayed."""

    def __init__(self) -> None:
        self.last: torch.cuda.CUDAGraph | None = None
        """A graph that holds the memory; it is kept until the next one does."""
        self._stream: torch.cuda.Stream | None = None

    def pool(self) -> Any:
        """What the next recording shares; None for the first."""
        return None if self.last is None else self.last.pool()

    def stream(self) -> torch.cuda.Stream:
        """The same for all: memory that one stream has given back serves no other."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return self._stream
