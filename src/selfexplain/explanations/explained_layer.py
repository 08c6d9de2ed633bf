"""Choose, once for a model, the layer that maps are computed at."""

from dataclasses import dataclass

from torch import Tensor, nn

from selfexplain.errors import InputError

from .kinds import POOLED_KINDS, MapKind, check_images, check_kind
from .layout import Layout, is_of_heads, no_positions, sequences_of
from .pooled_head import (
    PooledHead,
    no_pooled_head,
    pooled_head_of,
    refuse_what_is_not_finite,
)
from .responsive import last_responsive_layer
from .source import Source, find_module
from .trace import Trace, traced


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
