"""Watch forwards of a model and leave no trace: hooks for the time of a block, state that is kept.

All that watches a forward of a model goes through ``forward_hooks`` and ``function_hook``: the
search for the explained layer and its activation in training (``capture.py``), and the objectives
that read feature maps.
"""

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from selfexplain.errors import InputError
from selfexplain.explanations.layout import find_module

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
"""Given the module, its inputs and its output; returns what goes on in its place, None for it."""

HookPlace = tuple[str, Literal["input", "output"]]
"""A module's name, and whether a forward is met where it enters the module or where it leaves."""

FunctionHook = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]
"""Given a torch function and the arguments that it is about to be called with."""


@dataclass(frozen=True, slots=True)
class ForwardHook:
    """What to call at one place of a forward.

    Attributes:
        place: in the model.
        call: the hook; its output is None where the place is a module's input.
        recomputed: called in its place where a checkpointed part runs again in a backward pass,
            which is no forward of its own but must do the same operations; None for nothing.

    Example:
        >>> ForwardHook(("layer4", "output"), print).place
        ('layer4', 'output')
    """

    place: HookPlace
    call: Hook
    recomputed: Hook | None = None

    def register(self, module: nn.Module) -> Callable[[], None]:
        """Hook the module; return what removes the hook.

        A backward pass that began before, as that in which a whole step is run again, is no
        recomputation: what is hooked within it is a forward of its own.
        """
        began = _backward_pass()

        def run(module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> Any:
            call = self.call if _backward_pass() == began else self.recomputed
            return None if call is None else call(module, inputs, output)

        if self.place[1] == "input":
            return module.register_forward_pre_hook(run).remove
        return module.register_forward_hook(run).remove


@contextmanager
def forward_hooks(model: nn.Module, hooks: Iterable[ForwardHook]) -> Iterator[None]:
    """Hook modules of a model for the time of the block; also errors remove the hooks.

    What is compiled around a hooked module runs meanwhile as it was written: compiled code would
    pass over the hook, and say nothing of that.

    Raises:
        InputError: a module is not in the model.

    Example:
        >>> model, shapes = nn.Sequential(nn.Flatten(), nn.ReLU()), []
        >>> def note(module, inputs, output):
        ...     shapes.append(tuple(output.shape))
        >>> with forward_hooks(model, [ForwardHook(("0", "output"), note)]):
        ...     _ = model(torch.ones(2, 3, 4))
        >>> shapes
        [(2, 12)]
    """
    around = [(hook, modules_around(model, hook.place[0])) for hook in hooks]
    with ExitStack() as stack:
        stack.enter_context(run_eagerly([module for _, path in around for module in path]))
        for hook, path in around:
            stack.callback(hook.register(path[-1]))
        yield


def every_output(
    model: nn.Module, call: Callable[[str], Hook], recomputed: Hook | None = None
) -> list[ForwardHook]:
    """A hook on the output of each module, made by ``call`` from the module's name."""
    names = [name for name, _ in model.named_modules()]
    return [ForwardHook((name, "output"), call(name), recomputed) for name in names]


def _backward_pass() -> int:
    """Number of the backward pass that this thread is in, -1 for none."""
    return torch._C._current_graph_task_id()  # noqa: SLF001  (as torch.utils.checkpoint asks)


# Functions between modules, whose arguments no module returns.


class function_hook(TorchFunctionMode):  # noqa: N801  (used as a context manager, as torch's own)
    """Call a hook before every torch function of the block.

    Pooling is often a function of something that no module returned, as in
    ``F.avg_pool2d(F.relu(self.bn(h)), 8)``; only the call itself shows its input.
    """

    def __init__(self, call: FunctionHook) -> None:
        super().__init__()
        self.call = call

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the hook, then ``func``."""
        kwargs = kwargs or {}
        self.call(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def function_hook_between(
    model: nn.Module, call: FunctionHook, opens: HookPlace, closes: HookPlace
) -> Iterator[None]:
    """Call a hook before torch functions between two places of each forward.

    A hook costs some 7 microseconds a function, which is felt in a whole forward but not in the few
    calls between two modules.
    """
    with ExitStack() as window:

        def start(*_: Any) -> None:
            window.close()  # if the place has been passed before
            window.enter_context(function_hook(call))

        def stop(*_: Any) -> None:
            window.close()

        with forward_hooks(model, [ForwardHook(opens, start), ForwardHook(closes, stop)]):
            yield


def each_tensor(look: Callable[[Tensor], None]) -> FunctionHook:
    """A hook that shows ``look`` every tensor that a function is given."""

    def call(_function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                look(value)

    return call


# Let what `torch.compile` compiled run as it was written, so that hooks inside of it run too.
#
# Compiled code is a copy of the forward pass as it was when it was made: hooks that come later
# are not in it, and it says nothing of that.


CALL = "_compiled_call_impl"
"""Where torch keeps what a compiled module runs in place of its own call; None for nothing."""


@contextmanager
def run_eagerly(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run those of the modules that are compiled as they were written, for the time of the block.

    A module is compiled by its own `compile()`, or as a whole by `torch.compile(module)`. In the
    second case all compiled code rests meanwhile. Modules that are not named keep their code, so
    name those that hooks lie on or in (`modules_around`).
    """
    modules = dict.fromkeys(modules)
    with ExitStack() as stack:
        if any(child_of(module, "_orig_mod") is not None for module in modules):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module in modules:
            call = getattr(module, CALL)
            if call is not None:
                stack.callback(setattr, module, CALL, call)
                setattr(module, CALL, None)
        yield


def child_of(module: nn.Module, name: str) -> nn.Module | None:
    """A submodule, if there is one, without the search that a missing attribute costs."""
    children: Mapping[str, nn.Module] = vars(module)["_modules"]
    return children[name] if name in children else None  # noqa: SIM401 - scripted ones have no get


def modules_around(model: nn.Module, name: str) -> list[nn.Module]:
    """The module of that name and those that it lies in, the model first.

    Wrappers may have changed the names since the name was found; then all modules are searched.
    """
    around = [model]
    try:
        for part in filter(None, name.split(".")):
            child = child_of(around[-1], part)
            around.append(getattr(around[-1], part) if child is None else child)
    except AttributeError:
        return modules_around(model, find_module(model, name)[0])
    return around


# Gradients of what hooks kept, which not every recomputation allows.


RECOMPUTED = (
    "the model is checkpointed with use_reentrant=True, which gives no gradients of single "
    "tensors; pass use_reentrant=False to the checkpointing (torch.utils.checkpoint, or the option "
    "of the library that calls it)"
)


def gradients_of_score(
    score: Tensor,
    activations: Sequence[Tensor],
    create_graph: bool = False,
    retain_graph: bool = False,
) -> Sequence[Tensor | None]:
    """Gradients of a scalar; None for what it does not depend on.

    Raises:
        InputError: if parts of the model are checkpointed in the way that forbids it.

    Example:
        >>> a = torch.ones(2, requires_grad=True)
        >>> gradients_of_score((a * a).sum(), [a])
        (tensor([2., 2.]),)
    """
    try:
        return torch.autograd.grad(
            score,
            activations,
            retain_graph=retain_graph,
            create_graph=create_graph,
            allow_unused=True,
        )
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise InputError(RECOMPUTED) from error
        raise


# Leave a model as it was found: modes, buffers, random numbers.


@contextmanager
def other_weights(
    modules: Iterable[nn.Module], *, zeros_only: bool = False, gain: float = 1.0
) -> Iterator[None]:
    """Lend modules parameters and buffers of other values; the model's own are not written to.

    What holds by chance alone does not hold with them: many a layer starts as the identity, as
    BatchNorm in eval mode, a scale of ones, a low-rank update of zeros. Where such a layer lies is
    not to be read off the weights that a network begins with. Values keep their sign, zeros become
    positive, and whole numbers stay as they are.

    Args:
        modules: whose own tensors are replaced; their submodules' only if they are given, too.
        zeros_only: replace only tensors that are zero throughout.
        gain: how many times as large the values become.
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
    with _replaced(owned, lent):
        yield


@contextmanager
def _replaced(
    owned: Sequence[tuple[nn.Module, str, Tensor]], others: Mapping[int, Tensor]
) -> Iterator[None]:
    """Put other tensors, by the `id` of each, in place of modules' own."""
    try:
        for module, name, own in owned:
            setattr(module, name, others[id(own)])
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
    forward or a hook may still write into them. Backward passes write, too, where parts of
    the forward are checkpointed: those run again.
    """
    owned = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    copies = {id(buffer): buffer.detach().clone() for _, _, buffer in owned}
    with _replaced(owned, copies):
        yield


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
