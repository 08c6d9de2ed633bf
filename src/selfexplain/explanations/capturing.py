"""Keep the explained activation of an ordinary forward, for maps without a second forward."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError

from .compiled import modules_around, run_eagerly
from .explained_layer import ExplainedLayer
from .layout import to_BFHW
from .source import find_module
from .window import watched_between

Hook = Callable[..., Any]


class Seen:
    """What ``capture`` saw in the last forward.

    Attributes:
        layer: the explained layer.
        linear: the pooled linear head of this model; None if the layer is not averaged into one.
        inner_logits: logits before Fabric's wrapper forbids to differentiate them; None without it.

    Example:
        >>> from selfexplain.explanations.layout import Layout
        >>> from selfexplain.explanations.source import Source
        >>> seen = Seen(ExplainedLayer(Source("input", ""), Layout("BCHW", 3)), linear=None)
        >>> seen.keep(torch.zeros(2, 3, 8, 8))
        >>> seen.activation.shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, layer: ExplainedLayer, linear: nn.Linear | None) -> None:
        self.layer = layer
        self.linear = linear
        self.inner_logits: Tensor | None = None
        self._activation: Tensor | None = None

    def keep(self, activation: Tensor) -> None:
        """Replace what was seen before."""
        self._activation = activation

    def keep_fitting(self, tensor: Tensor) -> None:
        """Keep ``tensor`` if it is shaped as the explained activation is."""
        if self.layer.layout.fits(tensor):
            self.keep(tensor)

    @property
    def activation(self) -> Tensor:
        """The live activation, in the graph of the logits, shaped as the layer gave it."""
        if self._activation is None:
            raise InputError(
                "capture saw no forward through the explained layer; call model(x) inside "
                "`with capture(model, layer) as seen:` with the model that the layer was found in"
            )
        return self._activation

    @property
    def features_BFHW(self) -> Tensor:
        """The activation with its features second: (B, F, H, W), tokens on their grid."""
        return to_BFHW(self.activation, self.layer.layout)


@contextmanager
def capture(model: nn.Module, layer: ExplainedLayer) -> Iterator[Seen]:
    """Keep the explained activation of the forwards in this block; the last one counts.

    Costs one forward hook. Where the pooled feature map is the result of a function, the functions
    called between the last module before it and the head are watched too, a handful as a rule.
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
        >>> with capture(model, find_explained_layer(model, x)) as seen:
        ...     logits = model(x)
        >>> seen.activation.shape
        torch.Size([2, 8, 6, 6])
    """
    around_head = [] if layer.head is None else _modules_around(model, layer.head.name)
    head = around_head[-1] if around_head else None
    seen = Seen(layer, head if isinstance(head, nn.Linear) else None)
    with ExitStack() as stack:
        around = _modules_around(model, layer.source.name)
        module = around[-1]
        hooked = [*around, *around_head] if layer.source.at == "function" else around
        stack.enter_context(run_eagerly(hooked))
        if layer.source.at == "input":
            stack.callback(module.register_forward_pre_hook(_input_hook(seen)).remove)
        elif layer.source.at == "output":
            stack.callback(module.register_forward_hook(_output_hook(seen)).remove)
        else:
            assert head is not None, "only pooled feature maps are found between modules"
            stack.enter_context(watched_between(model, module, head, seen.keep_fitting))
        inner = dict(model.named_children()).get("_forward_module")
        if inner is not None and layer.head is None:
            stack.callback(inner.register_forward_hook(_logits_hook(seen)).remove)
        yield seen


def _modules_around(model: nn.Module, name: str) -> list[nn.Module]:
    """Return a module by name, last, and those it lies in.

    Walk all modules only if wrappers have changed the names.
    """
    try:
        return modules_around(model, name)
    except AttributeError:
        return modules_around(model, find_module(model, name)[0])


def _leaf(activation: Tensor) -> Tensor:
    """Make a frozen activation one that gradients can be taken for."""
    if activation.requires_grad or not torch.is_grad_enabled():
        return activation
    return activation.detach().requires_grad_()


def _input_hook(seen: Seen) -> Hook:
    """Keep the images and pass on a copy."""

    def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not inputs:
            return None
        seen.keep(_leaf(inputs[0]))
        return (seen.activation.clone(), *inputs[1:])

    return hook


def _output_hook(seen: Seen) -> Hook:
    """Keep an output; pass on a copy where gradients are to be taken."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if not seen.layer.layout.fits(output):
            return None
        if seen.layer.head is not None:
            seen.keep(output)
            return None
        seen.keep(_leaf(output))
        return seen.activation.clone()

    return hook


def _logits_hook(seen: Seen) -> Hook:
    """Keep the logits and pass on an alias, to which Fabric may tie what it likes."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        seen.inner_logits = output
        return output.view_as(output)

    return hook
