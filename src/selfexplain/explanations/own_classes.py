"""Maps of classes that each image has for itself: its true one, the one it is mistaken for.

Shape suffixes: B batch, K classes, N classes of an image, H W space.
"""

import torch
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.explanations import MapKind
from selfexplain.explanations.hooks import Captured
from selfexplain.explanations.layers import no_pooled_head
from selfexplain.explanations.layout import POOLED_KINDS, check_kind, check_output
from selfexplain.explanations.maps import (
    check_agreement,
    closed_form,
    gradient_of_score,
    maps_by_gradient,
)


def maps_of_own_classes(
    captured: Captured,
    logits_BK: Tensor,
    classes_BN: Tensor,
    *,
    kind: MapKind = "cam",
    create_graph: bool = False,
    retain_graph: bool = True,
) -> Tensor:
    """Class maps of a few classes of each image, from the graph of a forward that was captured.

    Costs N backward passes where ``maps_of_forward`` for all classes would cost K; none at the
    layer that is averaged into a linear head. In training mode BatchNorm couples the images:
    gradients are those of the sum over the batch of each image's own logit.

    Args:
        captured: from ``capture``, with a layer that was found for this kind.
        logits_BK: what that forward returned.
        classes_BN: class indices, N for each image.
        kind: one of ``KINDS``.
        create_graph: make the maps differentiable.
        retain_graph: leave the forward's graph usable, for the backward pass of a loss.

    Returns:
        Maps (B, N, H, W); see ``class_maps``.

    Raises:
        InputError: if the kind does not go with the layer, or an argument cannot be used.

    Example:
        >>> from torch import nn
        >>> from selfexplain.explanations import capture, find_explained_layer
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ... )
        >>> x = torch.rand(2, 3, 8, 8)
        >>> with capture(model, find_explained_layer(model, x)) as captured:
        ...     logits = model(x)
        >>> maps_of_own_classes(captured, logits, torch.tensor([[0], [4]])).shape
        torch.Size([2, 1, 6, 6])
    """
    check_kind(kind)
    classes_BN = _check(classes_BN, check_output(logits_BK, len(captured.activation)))
    if captured.linear is not None and kind in POOLED_KINDS:
        check_agreement(captured, logits_BK)
        with torch.set_grad_enabled(create_graph):
            return closed_form(captured, captured.weight_KF[classes_BN], kind)
    if kind == "cam":
        raise no_pooled_head("this layer was found for another kind")
    with captured.buffers_lent():
        return maps_by_gradient(
            captured.differentiable(logits_BK).gather(1, classes_BN),
            captured.activation,
            captured.layer.layout,
            kind=kind,
            classes=range(classes_BN.shape[1]),
            create_graph=create_graph,
            retain_graph=retain_graph,
        )


def gradient_of_own_class(
    captured: Captured, logits_BK: Tensor, classes_B: Tensor, *, create_graph: bool = False
) -> Tensor:
    """Gradient of each image's own logit for the explained activation, feature by feature.

    Args:
        captured: from ``capture``, with a layer that was found for a kind with backward passes.
        logits_BK: what that forward returned; its graph stays usable.
        classes_B: a class index for each image.
        create_graph: make the gradient differentiable.

    Returns:
        The gradient, in the shape of ``captured.activation``.

    Raises:
        InputError: if the logits do not depend on the activation, or an argument cannot be used.

    Example:
        >>> from torch import nn
        >>> from selfexplain.explanations import capture, find_explained_layer
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
        >>> x = torch.rand(2, 3, 4, 4)
        >>> with capture(model, find_explained_layer(model, x, kind="gradient")) as captured:
        ...     logits = model(x)
        >>> gradient_of_own_class(captured, logits, torch.tensor([0, 4])).shape
        torch.Size([2, 3, 4, 4])
    """
    classes_B1 = _check(classes_B.unsqueeze(-1), check_output(logits_BK, len(captured.activation)))
    score = captured.differentiable(logits_BK).gather(1, classes_B1).sum()
    with captured.buffers_lent():
        return gradient_of_score(score, captured.activation, create_graph)


def _check(classes_BN: Tensor, logits_BK: Tensor) -> Tensor:
    """Return the classes if they fit; their range is checked on the CPU, where that is free."""
    batch, n_classes = logits_BK.shape
    fits = classes_BN.ndim == 2 and len(classes_BN) == batch and classes_BN.dtype == torch.int64
    if not fits or classes_BN.shape[1] == 0:
        raise InputError(
            f"the classes are {classes_BN.dtype} of shape {tuple(classes_BN.shape)}; pass class "
            f"indices (int64) of shape ({batch}, N), N for each image"
        )
    if (
        classes_BN.device.type == "cpu"
        and not 0 <= classes_BN.min() <= classes_BN.max() < n_classes
    ):
        raise InputError(
            f"classes from {classes_BN.min()} to {classes_BN.max()} cannot be used; pass class "
            f"indices from 0 to {n_classes - 1}"
        )
    return classes_BN
