"""Capture the explained layer's features during a forward pass; the layer before it, if asked."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from selfexplain.errors import InputError
from selfexplain.explanations.formulas import RECOMPUTED
from selfexplain.explanations.hooks import (
    ForwardHook,
    Place,
    each_tensor,
    forward_hooks,
    function_hook_between,
)
from selfexplain.explanations.layers import ExplainedLayer
from selfexplain.explanations.layout import (
    Layout,
    Source,
    find_module,
    is_of_heads,
    sequences_of,
    to_BFHW,
)
from selfexplain.explanations.model_state import buffers_lent, preserved
from selfexplain.explanations.tracing import N_IMAGES, LinearWeights, traced

# Keep the explained activation of an ordinary forward, for maps without a second forward.


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
        >>> from selfexplain.explanations.layout import Layout
        >>> from selfexplain.explanations.layout import Source
        >>> seen = Captured(ExplainedLayer(Source("input", ""), Layout("BCHW", 3)), linear=None)
        >>> seen.keep(torch.zeros(2, 3, 8, 8))
        >>> seen.activation.shape
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
    name = _name_in(model, layer.source.name)
    head_name = None if layer.head is None else _name_in(model, layer.head.name)
    head = None if head_name is None else model.get_submodule(head_name)
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
            opens: Place = (name, "output") if name else ("", "input")  # the whole forward
            closes: Place = (head_name, "input")
            stack.enter_context(function_hook_between(model, look, opens, closes))
        if captured.linear is not None and head_name is not None:
            weights = LinearWeights()
            if is_parametrized(captured.linear):
                opens, closes = (head_name, "input"), (head_name, "output")
                stack.enter_context(function_hook_between(model, weights, opens, closes))
            hooks.append(_head_hook(captured, head_name, captured.linear, weights))
        stack.enter_context(forward_hooks(model, hooks))
        inner = dict(model.named_children()).get("_forward_module")
        if inner is not None and layer.head is None:
            hook = _logits_hook(captured)
            stack.callback(hook.register(inner))  # outside of what is compiled, which may run on
        yield captured


def _name_in(model: nn.Module, name: str) -> str:
    """A module's name in this model; all modules are walked only if wrappers have changed it."""
    try:
        model.get_submodule(name)
    except AttributeError:
        return find_module(model, name)[0]
    return name


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


def find_earlier_layer(model: nn.Module, x_BCHW: Tensor, last: ExplainedLayer) -> ExplainedLayer:
    """Find the last module whose output has more positions than the layer ``last``.

    In a network of stages that is the end of the stage before the last one, or the normalisation
    with which the last one begins. Maps of it need backward passes.

    Args:
        model: the model that ``last`` was found in; left as it was found.
        x_BCHW: a few images such as the model takes.
        last: the layer that the other one is to precede, from ``find_explained_layer``.

    Raises:
        InputError: if no module's output has more positions, as in a vision transformer.

    Example:
        >>> import torch
        >>> from selfexplain.explanations import find_explained_layer
        >>> from selfexplain.models import build_model
        >>> model = build_model("resnet20", num_classes=10, in_channels=3)
        >>> x = torch.rand(2, 3, 32, 32)
        >>> last = find_explained_layer(model, x)
        >>> last.source.name, find_earlier_layer(model, x, last).source.name
        ('stages', 'stages.1')
    """
    trace = traced(model, x_BCHW)
    sightings, image_BCHW = trace.sightings, trace.image_BCHW
    sequences = sequences_of(trace.outputs.values(), image_BCHW)
    tokens = [layout for seen in sightings for layout, _ in seen.means if layout.axes == "BTD"]
    positions: dict[str, tuple[Layout, int]] = {}
    for seen in sightings:
        if seen.module is not None and not is_of_heads(seen.tensor, tokens, sequences, image_BCHW):
            positions.pop(seen.module, None)  # a hook keeps a module's last call
            layout = seen.means[0][0]
            positions[seen.module] = layout, to_BFHW(seen.tensor, layout)[0, 0].numel()
    limit = _positions_of(model, x_BCHW, last)
    for name in reversed(_before(last.source, list(positions))):
        layout, count = positions[name]
        if count > limit:
            return ExplainedLayer(Source("output", name), layout)
    raise InputError(
        f"no earlier layer has more positions than the last one, which has {limit}; pass the name "
        "of an earlier layer"
    )


def _before(source: Source, names: list[str]) -> list[str]:
    """The modules, of ``names`` in order of execution, that finish before the source shows."""
    if source.at == "input":
        return []
    return names[: names.index(source.name)] if source.at == "output" else names


def _positions_of(model: nn.Module, x_BCHW: Tensor, layer: ExplainedLayer) -> int:
    """The number of positions of an explained layer."""
    x_BCHW = x_BCHW.detach()[:N_IMAGES].clone()
    still = preserved(model, x_BCHW, eval_mode=True)
    with still, torch.no_grad(), capture(model, layer) as captured:
        model(x_BCHW)
    return captured.features_BFHW[0, 0].numel()
