"""Capture a forward: all that shows in it, to find a layer; or the explained layer's features."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from selfexplain.errors import InputError
from selfexplain.explanations.hooks import (
    RECOMPUTED,
    ForwardHook,
    Hook,
    HookPlace,
    buffers_lent,
    child_of,
    each_tensor,
    every_output,
    forward_hooks,
    function_hook,
    function_hook_between,
    modules_around,
    preserved,
)
from selfexplain.explanations.layout import (
    ExplainedLayer,
    FeatureLayout,
    check_output,
    known_grids,
    layouts_of,
    pooled,
    to_BFHW,
)


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


# All that shows in one forward: what modules return, what functions between them are given.


# Enough to distinguish tensors by value, and cheap.
N_IMAGES = 2


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A tensor with space, seen as output of a module or as argument of a function.

    Its spatial means are taken on sight, as the tensor may be changed in place later.
    """

    tensor: Tensor
    module: str | None  # that returned it; None for arguments of functions
    after: str | None  # the last module that had finished by then
    means: list[tuple[FeatureLayout, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class LinearCall:
    """One call of a ``nn.Linear``, and how many sightings had been made before it."""

    name: str
    linear: nn.Linear
    weight: Tensor  # as it was used, which for a parametrised layer is not free to read
    bias: Tensor | None
    input: Tensor
    given_by: str | None  # the last module that returned the very input
    given_has_values: bool  # whether that module has parameters or buffers
    output: Tensor
    sightings: int


@dataclass(slots=True)
class Trace:
    """What was seen in one forward."""

    image_BCHW: torch.Size
    sightings: list[Sighting] = field(default_factory=list)
    linear_calls: list[LinearCall] = field(default_factory=list)
    called: dict[str, nn.Module] = field(default_factory=dict)
    returned: dict[str, str] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    """Of each module: how many sightings had been made when its last call ended."""
    outputs: dict[str, object] = field(default_factory=dict)
    maps: int = 0
    """How many outputs have had four axes."""
    asked: dict[tuple[int, int, int], bool] = field(default_factory=dict)
    """Whether these tokens, of this width, after these maps, have the grid they seem to have."""
    logits_BK: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    busy: bool = False

    def see(self, tensor: object, module: str | None) -> None:
        """Record ``tensor`` if it has space, but not the operations of inspecting it."""
        if self.busy:
            return
        self.busy = True
        layouts = layouts_of(tensor, self.image_BCHW)
        layouts = self._known(layouts, tensor)
        if layouts and isinstance(tensor, Tensor):
            means = [(layout, pooled(tensor.detach(), layout)) for layout in layouts]
            after = next(reversed(self.called), None)
            self.sightings.append(Sighting(tensor, module, after, means))
        self.busy = False

    def _known(self, layouts: list[FeatureLayout], tensor: object) -> list[FeatureLayout]:
        """Ask once for each number and width of tokens, and again when a map was seen since."""
        if not isinstance(tensor, Tensor) or not layouts or layouts[0].grid is None:
            return layouts
        key = tensor.shape[1], tensor.shape[2], self.maps
        if key not in self.asked:
            outputs = [*self.outputs.values(), tensor]
            self.asked[key] = bool(known_grids(layouts, outputs, self.image_BCHW))
        return layouts if self.asked[key] else []


def probe_images(x_BCHW: Tensor) -> Tensor:
    """A few images to probe a model with: copies, safe from models that write in place.

    Noise stands in for images of one colour, for which the mean of a feature map is its maximum,
    too: a head on either would look like a head on the other. It has a generator of its own.

    Example:
        >>> probe_images(torch.ones(4, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    x_BCHW = x_BCHW.detach()[:N_IMAGES].clone()
    one_colour_B = (x_BCHW == x_BCHW[:, :, :1, :1]).flatten(1).all(dim=1)
    noise_BCHW = torch.rand(x_BCHW.shape, generator=torch.Generator().manual_seed(0)).to(x_BCHW)
    return torch.where(one_colour_B[:, None, None, None], noise_BCHW, x_BCHW)


def traced(
    model: nn.Module, x_BCHW: Tensor, lent: AbstractContextManager[None] | None = None
) -> Trace:
    """Watch a forward of a few images in eval mode, without gradients; nothing else is changed.

    What is `lent` is in force during the forward, such as ``other_weights``.
    """
    x_BCHW = probe_images(x_BCHW)
    trace, weights = Trace(x_BCHW.shape), LinearWeights()
    with ExitStack() as stack:
        stack.enter_context(preserved(model, x_BCHW, eval_mode=True))
        stack.enter_context(lent or nullcontext())
        stack.enter_context(torch.no_grad())
        notes = every_output(model, lambda name: _note(trace, name, weights))
        stack.enter_context(forward_hooks(model, notes))
        if any(isinstance(m, nn.Linear) and is_parametrized(m) for m in model.modules()):
            stack.enter_context(function_hook(weights))
        with function_hook(each_tensor(lambda tensor: trace.see(tensor, None))):
            logits = model(x_BCHW)
    trace.logits_BK = check_output(logits, len(x_BCHW))
    return trace


def _note(trace: Trace, name: str, weights: LinearWeights) -> Hook:
    """Make a forward hook that notes a module's output, and that it was the last to finish."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        trace.finished[name] = len(trace.sightings)
        trace.see(output, name)
        given_by = _returned_by(trace, inputs[0]) if inputs else None
        trace.called.pop(name, None)
        trace.outputs[name] = output
        trace.maps += isinstance(output, Tensor) and output.dim() == 4
        trace.called[name] = module
        shape = getattr(output, "shape", None)
        trace.returned[name] = type(output).__name__ if shape is None else str(tuple(shape))
        if isinstance(module, nn.Linear) and inputs and isinstance(output, Tensor):
            used = weights.of(module)
            if used is None:
                return
            given, gave = inputs[0].detach().clone(), output.detach().clone()
            count = len(trace.sightings)
            valued = given_by is not None and _has_values(trace.called[given_by])
            call = LinearCall(name, module, *used, given, given_by, valued, gave, count)
            trace.linear_calls.append(call)

    return hook


def _has_values(module: nn.Module) -> bool:
    """Whether a module has parameters or buffers."""
    tensors = (next(module.parameters(), None), next(module.buffers(), None))
    return any(tensor is not None for tensor in tensors)


def _returned_by(trace: Trace, tensor: object) -> str | None:
    """The last module that returned this very tensor."""
    return next((name for name in reversed(trace.called) if trace.outputs[name] is tensor), None)


# The explained activation of an ordinary forward, for maps without a second forward.


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
        checked: whether ``logits = W mean + b`` has been checked (``checked.py``).

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
        stack.enter_context(forward_hooks(model, hooks))
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
