"""One map an image, of a class of its own (B images, C channels, K classes, H and W space)."""

import torch
from torch import Tensor, nn

from selfexplain.explanations.capturing import capture
from selfexplain.explanations.explained_layer import ExplainedLayer
from selfexplain.explanations.gradients import maps_by_gradient
from selfexplain.explanations.kinds import POOLED_KINDS, MapKind, check_logits
from selfexplain.explanations.maps import maps_of_forward
from selfexplain.explanations.state import preserved, set_eval


def maps_of_classes(
    model: nn.Module, x_BCHW: Tensor, classes_B: Tensor, *, kind: MapKind, layer: ExplainedLayer
) -> Tensor:
    """The map of each image's own class, in eval mode, with at most one backward pass for all.

    Equal to row ``classes_B[b]`` of image b in ``class_maps``, which takes a backward pass a class.
    The model is left as found; it may be a copy of the one that the layer was found in.

    Args:
        model: maps images to logits (B, K).
        x_BCHW: images.
        classes_B: a class for each image.
        kind: one of ``KINDS``.
        layer: from ``find_explained_layer``, for this kind.

    Returns:
        Maps (B, H, W) at the layer's resolution.

    Example:
        >>> from selfexplain.explanations import find_explained_layer
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> layer = find_explained_layer(model, x, kind="gradient")
        >>> maps_of_classes(model, x, torch.tensor([4, 0]), kind="gradient", layer=layer).shape
        torch.Size([2, 8, 8])
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        x_BCHW = x_BCHW.detach().clone()  # models may start in place
        index_B1 = classes_B.clone().to(x_BCHW.device)[:, None]
        return _maps(model, x_BCHW, index_B1, kind, layer)


def _maps(
    model: nn.Module, x_BCHW: Tensor, index_B1: Tensor, kind: MapKind, layer: ExplainedLayer
) -> Tensor:
    with preserved(model, x_BCHW), capture(model, layer) as seen:
        set_eval(model)
        logits_BK = check_logits(model(x_BCHW), len(x_BCHW))
        if seen.linear is not None and kind in POOLED_KINDS:
            maps_BKHW = maps_of_forward(seen, logits_BK, kind=kind, retain_graph=False)
            return maps_BKHW.gather(1, _like(index_B1, maps_BKHW))[:, 0]
        logits_BK = logits_BK if seen.inner_logits is None else seen.inner_logits
        return maps_by_gradient(
            logits_BK.gather(1, index_B1),
            seen.activation,
            seen.layer.layout,
            kind=kind,
            classes=[0],
            retain_graph=False,
        )[:, 0]


def _like(index_B1: Tensor, maps_BKHW: Tensor) -> Tensor:
    return index_B1[:, :, None, None].expand(-1, -1, *maps_BKHW.shape[2:])
