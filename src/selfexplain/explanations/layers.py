"""Find the layer to explain: the one that feeds a pooled head, or the last with space."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations.formulas import gradients_of_score
from selfexplain.explanations.hooks import ForwardHook, Hook, every_output, forward_hooks
from selfexplain.explanations.kinds import (
    POOLED_KINDS,
    MapKind,
    check_images,
    check_kind,
    check_output,
)
from selfexplain.explanations.layout import (
    Layout,
    Source,
    find_module,
    is_of_heads,
    known_grids,
    layouts_of,
    no_positions,
    sequences_of,
    to_BFHW,
)
from selfexplain.explanations.model_state import other_weights, preserved
from selfexplain.explanations.pooled_head import (
    PooledHead,
    find_pooled_head,
    no_pooled_head,
    pooled_head_of,
    refuse_what_is_not_finite,
)
from selfexplain.explanations.tracing import N_IMAGES, Trace, probe_images, traced

# The last layer with space that the logits hang on, for models without a pooled head.


def last_responsive_layer(model: nn.Module, x_BCHW: Tensor) -> tuple[str, Layout]:
    """Find the last module, in order of execution, whose output positions move the logits.

    In a vision transformer with a class token, what follows the last mixing of tokens is passed
    over: there the patch tokens have no gradient. Tokens must be as wide as the last ones are, so
    that the inside of an MLP does not count. What attention heads compute is no feature map; tokens
    without a known grid are refused rather than passed over for the map that they are made of.

    Returns:
        The module's name and the layout of its output.

    Raises:
        InputError: if there is no such module.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
        >>> last_responsive_layer(model, torch.rand(2, 3, 8, 8))[0]
        '1'
    """
    check_images(x_BCHW)
    found = outputs_with_space(model, x_BCHW)
    tokens = [layout for _, layout, _ in found if layout is not None and layout.axes == "BTD"]
    passed: tuple[str, torch.Size] | None = None
    for name, layout, gradient in reversed(found):
        if layout is None:
            if passed is None and bool(gradient.any()):
                passed = name, gradient.shape
            continue
        wide = layout.axes != "BTD" or layout.channels == tokens[-1].channels
        if wide and bool((gradient_BFHW := to_BFHW(gradient, layout)).any()):
            if passed is not None and _made_of(passed[1], gradient_BFHW.shape):
                raise no_positions(passed[0], str(tuple(passed[1])), x_BCHW.shape)
            return name, layout
    raise InputError(
        "no layer's output has space (B, C, H, W) or a grid of tokens (B, T, D) and a gradient; "
        "pass the name of a layer, or kind='gradient' for the images themselves"
    )


def outputs_with_space(model: nn.Module, x_BCHW: Tensor) -> list[tuple[str, Layout | None, Tensor]]:
    """Names, layouts and gradients of outputs with positions, in order of execution.

    What attention heads compute is left out. Sequences without a known grid have no layout.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5))
        >>> [name for name, _, _ in outputs_with_space(model, torch.rand(2, 3, 8, 8))]
        ['0']
    """
    image_BCHW = x_BCHW[:N_IMAGES].shape
    all_found = outputs_and_gradients(model, x_BCHW)
    outputs = [output for _, output, _ in all_found]
    sequences = sequences_of(outputs, image_BCHW)
    found = []
    known: dict[Layout, bool] = {}
    for name, output, gradient in all_found:
        layouts = layouts_of(output, image_BCHW)
        if layouts and layouts[0] not in known:
            known[layouts[0]] = bool(known_grids(layouts[:1], outputs, image_BCHW))
        layouts = layouts if layouts and known[layouts[0]] else []
        is_sequence = output.dim() == 3 and (output.shape[1], output.shape[2]) in sequences
        if layouts or (is_sequence and len(output) == image_BCHW[0]):
            found.append((name, layouts[0] if layouts else None, gradient))
    tokens = [layout for _, layout, _ in found if layout is not None and layout.axes == "BTD"]
    return [
        (name, layout, gradient)
        for name, layout, gradient in found
        if layout is None or not is_of_heads(gradient, tokens, sequences, image_BCHW)
    ]


def _made_of(sequence_BND: torch.Size, map_BFHW: torch.Size) -> bool:
    """Tell whether a sequence holds the positions of a map, as wide as they were."""
    positions = map_BFHW[2:].numel()
    return sequence_BND[1] >= positions > max(map_BFHW[2:]) and sequence_BND[2] == map_BFHW[1]


def outputs_and_gradients(model: nn.Module, x_BCHW: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Names and last outputs of modules, in order of execution, and the gradients of a score.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5))
        >>> [name for name, _, _ in outputs_and_gradients(model, torch.rand(2, 3, 8, 8))]
        ['0', '1', '2', '']
    """
    x_BCHW = probe_images(x_BCHW).requires_grad_()
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(preserved(model, x_BCHW, eval_mode=True))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(forward_hooks(model, _keep_outputs(model, outputs)))
        # What starts at zero, such as the last weights of a branch, would hide what lies before it.
        stack.enter_context(other_weights(model.modules(), zeros_only=True))
        logits_BK = check_output(model(x_BCHW.clone()), len(x_BCHW))
        # Fabric's wrapper forbids to differentiate what it returns.
        logits_BK = outputs.get("_forward_module", logits_BK)
        if not (outputs and logits_BK.requires_grad):
            return []
        # Not the plain sum of the logits: that of log-probabilities or centred logits is constant.
        weight_K = torch.arange(1, logits_BK.shape[1] + 1, device=logits_BK.device).cos()
        score = (logits_BK.float() * weight_K).sum()
        gradients = gradients_of_score(score, list(outputs.values()))
    pairs = zip(outputs.items(), gradients, strict=True)
    return [(name, output, grad) for (name, output), grad in pairs if grad is not None]


def _keep_outputs(model: nn.Module, outputs: dict[str, Tensor]) -> list[ForwardHook]:
    """Hooks that keep what modules return, out of reach of in-place changes."""

    def copy(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        return output.clone() if isinstance(output, Tensor) and output.requires_grad else None

    def keep(name: str) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
            copied = copy(module, inputs, output)
            if copied is not None:
                outputs.pop(name, None)  # the last call counts, and takes its place in the order
                outputs[name] = output
            return copied

        return hook

    # a copy again where a part is recomputed, or checkpointing would miss an operation
    return every_output(model, keep, recomputed=copy)


# Choose, once for a model, the layer that maps are computed at.


@dataclass(frozen=True, slots=True)
class ExplainedLayer:
    """Where the explained activation shows in a forward, and how maps are made of it.

    It holds names, not the model: it also serves copies and wrapped versions of the model.

    Attributes:
        source: where the activation shows.
        layout: how to read it.
        head: the linear head that it is averaged into; None if maps need backward passes.

    Example:
        >>> ExplainedLayer(Source("output", "layer3"), Layout("BCHW", 8)).source.name
        'layer3'
    """

    source: Source
    layout: Layout
    head: PooledHead | None = None


def find_explained_layer(
    model: nn.Module, x_BCHW: Tensor, *, kind: MapKind = "cam", layer: str | None = None
) -> ExplainedLayer:
    """Find the layer to explain: the named one, or the default of the kind.

    The default is the images for ``gradient`` and ``input_x_gradient``. For the other kinds it is
    the feature map that is averaged into the linear head; where there is none (``cam`` needs one)
    the last layer with positions, or patch tokens, that the logits depend on. Layers must return
    one tensor, (B, C, H, W) or (B, T, D); the last call counts if there are several.

    Args:
        model: maps images to logits; left as it was found.
        x_BCHW: a few images such as the model takes.
        kind: one of ``KINDS``.
        layer: dotted name of a module, with or without the prefixes of DDP, Fabric, torch.compile.

    Raises:
        InputError: if kind, layer, images or logits cannot be used; the message says what can.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5))
        >>> find_explained_layer(model, torch.rand(2, 3, 8, 8), kind="grad_cam").source.name
        '0'
    """
    check_kind(kind)
    check_images(x_BCHW)
    if kind == "input_x_gradient" and layer is not None:
        raise InputError(
            f"input_x_gradient explains the images, not layer {layer!r}; "
            "pass layer=None, or kind='feature_x_gradient' for this layer"
        )
    name = None if layer is None else find_module(model, layer)[0]
    trace = traced(model, x_BCHW)
    if name is None and kind not in POOLED_KINDS:
        return ExplainedLayer(Source("input", ""), Layout("BCHW", x_BCHW.shape[1]))
    if kind in POOLED_KINDS and (pooled := _pooled_layer(model, x_BCHW, trace, kind, name)):
        return pooled
    if name is None:
        name, layout = last_responsive_layer(model, x_BCHW)
        return ExplainedLayer(Source("output", name), layout)
    return ExplainedLayer(Source("output", name), _layout_of(trace, name))


def _pooled_layer(
    model: nn.Module, x_BCHW: Tensor, trace: Trace, kind: MapKind, name: str | None
) -> ExplainedLayer | None:
    """Return the pooled feature map if that is the layer meant; ``cam`` has no other."""
    head = pooled_head_of(model, x_BCHW, trace)
    if isinstance(head, str):
        if kind == "cam" or name is None:
            refuse_what_is_not_finite(model, x_BCHW, trace.logits_BK)
        if kind == "cam":
            raise no_pooled_head(head)
        return None
    if name is None:
        return ExplainedLayer(head.source, head.layout, head)
    if name in head.layers:
        return ExplainedLayer(Source("output", name), head.layout, head)
    if kind == "cam":
        raise no_pooled_head(f"layer {name!r} is not that feature map; leave layer out for cam")
    return None


def _layout_of(trace: Trace, name: str) -> Layout:
    """Return the layout of the last output with space of a module."""
    if name not in trace.called:
        raise InputError(
            f"layer {name!r} is not called in a forward; pass the name of a layer that is"
        )
    seen = next((s for s in reversed(trace.sightings) if s.module == name), None)
    sequences = sequences_of(trace.outputs.values(), trace.image_BCHW)
    if seen is None or is_of_heads(seen.tensor, (), sequences, trace.image_BCHW):
        raise no_positions(name, trace.returned[name], trace.image_BCHW)
    return seen.means[0][0]


def explainable_layers(model: nn.Module, x_BCHW: Tensor, kind: MapKind) -> tuple[str, ...]:
    """Names of the modules that `class_maps` takes as `layer` for this kind, in order of execution.

    For ``cam`` those that return the feature map that is pooled into the head; none for
    ``input_x_gradient``, which explains the images; for the others every module that returns one
    tensor with positions, or patch tokens, on which the logits depend.

    Args:
        model: maps images to logits; left as it was found.
        x_BCHW: a few images such as the model takes.
        kind: one of ``KINDS``.

    Raises:
        InputError: if kind, images or logits cannot be used, or ``cam`` finds no pooled head.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
        >>> explainable_layers(model, torch.rand(2, 3, 8, 8), "grad_cam")
        ('0', '1')
    """
    if check_kind(kind) == "cam":
        return find_pooled_head(model, x_BCHW).layers
    if kind == "input_x_gradient":
        return ()
    return tuple(
        name
        for name, layout, gradient in outputs_with_space(model, x_BCHW)
        if name and layout is not None and bool(to_BFHW(gradient, layout).any())
    )
