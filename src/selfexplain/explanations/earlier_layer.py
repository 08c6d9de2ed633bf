"""The last layer before another one that still sees the image at a higher resolution."""

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError

from .capturing import capture
from .explained_layer import ExplainedLayer
from .layout import Layout, is_of_heads, sequences_of, to_BFHW
from .source import Source
from .state import preserved, set_eval
from .trace import N_IMAGES, traced


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
    with preserved(model, x_BCHW), torch.no_grad(), capture(model, layer) as seen:
        set_eval(model)
        model(x_BCHW)
    return seen.features_BFHW[0, 0].numel()
