"""One map an image, of a class of its own (B images, C channels, K classes, H and W space)."""

import torch
from torch import Tensor, nn

from selfexplain.explanations.capturing import capture
from selfexplain.explanations.explained_layer import ExplainedLayer
from selfexplain.explanations.kinds import MapKind
from selfexplain.explanations.own_classes import maps_of_own_classes
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
        with preserved(model, x_BCHW), capture(model, layer) as seen:
            set_eval(model)
            return maps_of_own_classes(
                seen, model(x_BCHW), index_B1, kind=kind, retain_graph=False
            )[:, 0]
