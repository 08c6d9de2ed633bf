"""Watch forwards of a model and leave no trace: hooks for the time of a block, state that is kept.

All that watches a forward of a model goes through ``forward_hooks`` and ``function_hook``: the
search for the explained layer (``layers.py``), ``capture`` with the features of that layer, and the
objectives that read feature maps.
"""

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from selfexplain.errors import InputError
from selfexplain.explanations.layout import ExplainedLayer, find_module, to_BFHW

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
    with ExitStack() as stack:
        add_hooks(stack, model, hooks)
        yield


def add_hooks(stack: ExitStack, model: nn.Module, hooks: Iterable[ForwardHook]) -> None:
    """Hook modules until a stack is closed, as ``forward_hooks`` does."""
    around = [(hook, modules_around(model, hook.place[0])) for hook in hooks]
    run_eagerly(stack, [module for _, path in around for module in path])
    for hook, path in around:
        stack.callback(hook.register(path[-1]))


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
    with ExitStack() as opened:

        def start(*_: Any) -> None:
            opened.close()  # if the place has been passed before
            opened.enter_context(function_hook(call))

        def stop(*_: Any) -> None:
            opened.close()

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


def run_eagerly(stack: ExitStack, modules: Iterable[nn.Module]) -> None:
    """Run those of the modules that are compiled as they were written, until a stack is closed.

    A module is compiled by its own `compile()`, or as a whole by `torch.compile(module)`. In the
    second case all compiled code rests meanwhile. Modules that are not named keep their code, so
    name those that hooks lie on or in (`modules_around`).
    """
    modules = dict.fromkeys(modules)
    if any(child_of(module, "_orig_mod") is not None for module in modules):
        stack.enter_context(torch.compiler.set_stance("force_eager"))
    for module in modules:
        call = getattr(module, CALL)
        if call is not None:
            stack.callback(setattr, module, CALL, call)
            setattr(module, CALL, None)


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


# The explained activation of an ordinary forward, for maps without a second forward.


class LinearWeights:
    """A function hook that keeps the weight and the bias that the last ``F.linear`` was given.

    To read the weight of a parametrised layer is to compute it, which may change what it is
    computed from: spectral normalisation updates its vectors. So it is seen where it is used.
    """

    def __init__(self) -> None:
        self.used: tuple[Tensor, Tensor | None] | None = None

    def __call__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look for the weight."""
        if function is F.linear:
            named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            self.used = named["weight"], named.get("bias")

    def of(self, linear: nn.Linear) -> tuple[Tensor, Tensor | None] | None:
        """What a layer has just been called with; None if that is not known."""
        return self.used if is_parametrized(linear) else (linear.weight, linear.bias)


@dataclass(frozen=True, slots=True, eq=False)
class HeadCall:
    """One call of the pooled head: what it was given, what it returned, and by which weights."""

    input: Tensor
    output: Tensor
    weight_KF: Tensor
    bias_K: Tensor | None


class Captured:
    """What ``capture`` saw in the last forward.

    Attributes:
        layer: the explained layer.
        linear: the pooled linear head of this model; None if the layer is not averaged into one.
        model: that runs; None if it is not known.
        inner_logits: logits before Fabric's wrapper forbids to differentiate them; None without it.
        head_calls: of ``linear``, since the activation was seen.
        without_graph: whether the activation was computed where gradients are switched off.
        checked: whether ``logits = W mean + b`` has been checked (``CheckedLayers``).

    Example:
        >>> from selfexplain.explanations.layout import FeatureLayout, TensorSource
        >>> layer = ExplainedLayer(TensorSource("input", ""), FeatureLayout("BCHW", 3))
        >>> captured = Captured(layer, linear=None)
        >>> captured.keep(torch.zeros(2, 3, 8, 8))
        >>> captured.activation.shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self, layer: ExplainedLayer, linear: nn.Linear | None, model: nn.Module | None = None
    ) -> None:
        self.layer = layer
        self.linear = linear
        self.model = model
        self.inner_logits: Tensor | None = None
        self.head_calls: list[HeadCall] = []
        self.without_graph = False
        self.checked = False
        self._activation: Tensor | None = None

    def keep(self, activation: Tensor) -> None:
        """Replace what was seen before."""
        self._activation = activation
        self.without_graph = not torch.is_grad_enabled()
        self.head_calls = []
        self.checked = False

    def buffers_lent(self) -> AbstractContextManager[None]:
        """Keep buffers as they are while parts of the model run again in a backward pass."""
        return nullcontext() if self.model is None else buffers_lent(self.model)

    def check_graph(self) -> None:
        """Raise ``InputError`` if the activation was left out of a graph that was made."""
        made = any(call.output.requires_grad for call in self.head_calls)
        if self.without_graph and made and torch.is_grad_enabled():
            raise InputError(RECOMPUTED)

    @property
    def saw(self) -> bool:
        """Whether a forward went through the explained layer."""
        return self._activation is not None

    def keep_fitting(self, tensor: Tensor) -> None:
        """Keep ``tensor`` if it is shaped as the explained activation is."""
        if self.layer.layout.fits(tensor):
            self.keep(tensor)

    @property
    def activation(self) -> Tensor:
        """The live activation, in the graph of the logits, shaped as the layer gave it."""
        if self._activation is None:
            raise InputError(
                "capture saw no forward through the explained layer; call model(x) inside `with "
                "capture(model, layer) as captured:` with the model that the layer was found in"
            )
        return self._activation

    @property
    def weight_KF(self) -> Tensor:
        """The weight of the pooled head, as the forward used it."""
        return self._head_call.weight_KF

    @property
    def bias_K(self) -> Tensor | None:
        """The bias of the pooled head, as the forward used it."""
        return self._head_call.bias_K

    @property
    def _head_call(self) -> HeadCall:
        if not self.head_calls:
            raise InputError(
                "capture saw no call of the pooled head after the explained layer; call "
                "find_explained_layer again with the model as it is now"
            )
        return self.head_calls[-1]

    def differentiable(self, logits_BK: Tensor) -> Tensor:
        """The logits that may be differentiated: Fabric's wrapper forbids it for its own."""
        return logits_BK if self.inner_logits is None else self.inner_logits

    @property
    def features_BFHW(self) -> Tensor:
        """The activation with its features second: (B, F, H, W), tokens on their grid."""
        return to_BFHW(self.activation, self.layer.layout)


@contextmanager
def capture(model: nn.Module, layer: ExplainedLayer) -> Iterator[Captured]:
    """Keep the explained activation of the forwards in this block; the last one counts.

    Costs a forward hook on the layer, and one on the pooled head if there is one. Where the pooled
    feature map is the result of a function, the functions called between the last module before it
    and the head are watched too, a handful as a rule; so is the one in which a parametrised head
    uses its weight. What runs again in a backward pass, as checkpointed parts do, is not looked at.
    Hooks are removed at the end, also on errors. What is compiled around a hook runs meanwhile as
    it was written; other compiled parts of the model run as compiled. Layers that need backward
    passes are copied, so that later in-place operations do not reach them, and get a gradient even
    if all is frozen.

    Args:
        model: the model the layer was found in, a copy, or a wrapped version of it.
        layer: from ``find_explained_layer``.

    Yields:
        What was seen; give it to ``maps_of_forward``.

    Example:
        >>> from selfexplain.explanations import find_explained_layer
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ... )
        >>> x = torch.rand(2, 3, 8, 8)
        >>> with capture(model, find_explained_layer(model, x)) as captured:
        ...     logits = model(x)
        >>> captured.activation.shape
        torch.Size([2, 8, 6, 6])
    """
    name, head_name = layer.source.name, None if layer.head is None else layer.head.name
    head = None if head_name is None else modules_around(model, head_name)[-1]
    captured = Captured(layer, head if isinstance(head, nn.Linear) else None, model)
    hooks: list[ForwardHook] = []
    with ExitStack() as stack:
        if layer.source.at == "input":
            hooks.append(_input_hook(captured, name))
        elif layer.source.at == "output":
            hooks.append(_output_hook(captured, name))
        else:
            assert head_name is not None, "only pooled feature maps are found between modules"
            look = each_tensor(captured.keep_fitting)
            opens: HookPlace = (name, "output") if name else ("", "input")  # the whole forward
            closes: HookPlace = (head_name, "input")
            stack.enter_context(function_hook_between(model, look, opens, closes))
        if captured.linear is not None and head_name is not None:
            weights = LinearWeights()
            if is_parametrized(captured.linear):
                opens, closes = (head_name, "input"), (head_name, "output")
                stack.enter_context(function_hook_between(model, weights, opens, closes))
            hooks.append(_head_hook(captured, head_name, captured.linear, weights))
        add_hooks(stack, model, hooks)
        inner = child_of(model, "_forward_module")
        if inner is not None and layer.head is None:
            hook = _logits_hook(captured)
            stack.callback(hook.register(inner))  # outside of what is compiled, which may run on
        yield captured


def _leaf(activation: Tensor) -> Tensor:
    """Make a frozen activation one that gradients can be taken for."""
    if activation.requires_grad or not torch.is_grad_enabled():
        return activation
    return activation.detach().requires_grad_()


def _input_hook(captured: Captured, name: str) -> ForwardHook:
    """Keep the images and pass on a copy."""

    def copy(_module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> tuple[Any, ...] | None:
        return (_leaf(inputs[0]).clone(), *inputs[1:]) if inputs else None

    def keep(_module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> tuple[Any, ...] | None:
        if not inputs:
            return None
        captured.keep(_leaf(inputs[0]))
        return (captured.activation.clone(), *inputs[1:])

    # the same operations again, or checkpointing would miss what it counts on
    return ForwardHook((name, "input"), keep, recomputed=copy)


def _output_hook(captured: Captured, name: str) -> ForwardHook:
    """Keep an output; pass on a copy where gradients are to be taken."""
    fits, pooled = captured.layer.layout.fits, captured.layer.head is not None

    def copy(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        return _leaf(output).clone() if fits(output) and not pooled else None

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if not fits(output):
            return None
        captured.keep(output if pooled else _leaf(output))
        return None if pooled else captured.activation.clone()

    return ForwardHook((name, "output"), keep, recomputed=copy)


def _head_hook(
    captured: Captured, name: str, head: nn.Linear, weights: LinearWeights
) -> ForwardHook:
    """Keep the calls of the head, with the weights that they use."""

    def keep(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        used = weights.of(head)
        if used is not None and inputs and isinstance(output, Tensor):
            captured.head_calls.append(HeadCall(inputs[0], output, *used))

    return ForwardHook((name, "output"), keep)


def _logits_hook(captured: Captured) -> ForwardHook:
    """Keep the logits and pass on an alias, to which Fabric may tie what it likes."""

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        captured.inner_logits = output
        return output.view_as(output)

    return ForwardHook(("_forward_module", "output"), keep)
