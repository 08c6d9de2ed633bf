"""Class maps of all classes in one call.

Shape suffixes: B batch, C channels, F features, K classes, N classes of an image, H W space.
"""

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import MapKind
from selfexplain.explanations.capture import Captured, capture
from selfexplain.explanations.checked import CheckedLayers, check_agreement
from selfexplain.explanations.hooks import gradients_of_score, preserved
from selfexplain.explanations.layers import (
    no_pooled_head,
    refuse_broken_images,
    refuse_what_is_not_finite,
)
from selfexplain.explanations.layout import (
    POOLED_KINDS,
    FeatureLayout,
    check_classes,
    check_images,
    check_kind,
    check_output,
    to_BFHW,
)


def cam(features_BFHW: Tensor, weight_KF: Tensor) -> Tensor:
    """Class activation maps of all classes: ``M_k(h, w) = sum_f w_kf a_f(h, w)``.

    Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016. The
    bias of the head is no part of it, so the spatial mean of ``M_k`` is the logit less its bias.

    Args:
        features_BFHW: the feature map that is averaged over space and fed to the linear head.
        weight_KF: the weight of that head; rows of classes that are not wanted may be left out.

    Returns:
        Maps (B, K, H, W), signed, in the units of the logits.

    Example:
        >>> cam(torch.ones(2, 8, 4, 4), torch.ones(10, 8)).shape
        torch.Size([2, 10, 4, 4])
    """
    dtype = torch.promote_types(features_BFHW.dtype, weight_KF.dtype)
    # One matrix product for all classes: 2 to 4 times as fast as einsum at 10 classes, on a par at
    # 100, and unlike a 1x1 convolution it is not rounded to TF32 by default on GPUs.
    maps_BKP = weight_KF.to(dtype) @ features_BFHW.to(dtype).flatten(2)
    return maps_BKP.reshape(*maps_BKP.shape[:2], *features_BFHW.shape[2:])


def grad_cam_of(features_BFHW: Tensor, gradient_BFHW: Tensor) -> Tensor:
    """Grad-CAM of one class, without the ReLU: ``sum_f mean_hw(d logit / d a_f) a_f``, (B, H, W).

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017.
    """
    return (gradient_BFHW.mean((2, 3), keepdim=True) * features_BFHW).sum(1)


def feature_x_gradient_of(features_BFHW: Tensor, gradient_BFHW: Tensor) -> Tensor:
    """Feature times gradient of one class: ``sum_f a_f d logit / d a_f``; maps (B, H, W)."""
    return (features_BFHW * gradient_BFHW).sum(1)


def gradient_of(_features_BFHW: Tensor, gradient_BFHW: Tensor) -> Tensor:
    """Signed saliency of one class: ``sum_f d logit / d a_f``; maps (B, H, W)."""
    return gradient_BFHW.sum(1)


# Input times gradient is feature times gradient where the features are the images themselves.
OF_GRADIENT: dict[MapKind, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam_of,
    "feature_x_gradient": feature_x_gradient_of,
    "gradient": gradient_of,
    "input_x_gradient": feature_x_gradient_of,
}


def maps_by_gradient(
    logits_BK: Tensor,
    activation: Tensor,
    layout: FeatureLayout,
    *,
    kind: MapKind,
    classes: Sequence[int],
    create_graph: bool = False,
    retain_graph: bool = True,
) -> Tensor:
    """Maps (B, len(classes), H, W) from gradients of logits with respect to ``activation``.

    One backward pass a class. All classes in one batched pass (``is_grads_batched``) took as long
    on the CPU (mostly 0.84 to 1.15 times, at worst 1.3; 10 and 100 classes), needs the memory of
    all gradients at once, and does not work with every operation, so it is not used.

    Raises:
        InputError: if the logits do not depend on ``activation``.
    """
    features_BFHW = to_BFHW(activation if create_graph else activation.detach(), layout)
    scores_K = logits_BK.sum(0)  # images are independent, but for BatchNorm in training mode
    maps = []
    for i, k in enumerate(classes):
        keep = retain_graph or create_graph or i < len(classes) - 1
        gradient = gradient_of_score(scores_K[k], activation, create_graph, keep)
        maps.append(OF_GRADIENT[kind](features_BFHW, to_BFHW(gradient, layout)))
    return torch.stack(maps, dim=1)


def gradient_of_score(
    score: Tensor, activation: Tensor, create_graph: bool = False, retain_graph: bool = True
) -> Tensor:
    """Gradient of a scalar with respect to ``activation``, in its shape."""
    if not (score.requires_grad and activation.requires_grad):
        raise InputError(
            "the logits carry no gradient to the explained layer; run the forward with gradients "
            "enabled, and call find_explained_layer with the kind of map that is to be made"
        )
    (gradient,) = gradients_of_score(score, [activation], create_graph, retain_graph)
    if gradient is None:
        raise InputError(
            "the logits do not depend on the explained layer; "
            "pass the name of a layer on the path from the images to the logits"
        )
    return gradient


# All classes of a batch.


_found: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], CheckedLayers]] = WeakKeyDictionary()


def class_maps(
    model: nn.Module,
    x_BCHW: Tensor,
    *,
    kind: MapKind = "cam",
    layer: str | None = None,
    classes: Sequence[int] | None = None,
    create_graph: bool = False,
) -> Tensor:
    """What the model holds for and against every class, and where: signed maps.

    The model runs in the modes it is in, and is left as found: modes, buffers, gradients, hooks
    and the global random state. In training mode BatchNorm couples the images of a batch: gradients
    are then those of the sum of a class's logits over the batch. Dropout between the pool and the
    head is left out of ``cam`` and, at the pooled layer, of ``grad_cam`` and
    ``feature_x_gradient``: they are the mean over its masks.

    Kinds, for a layer's features a_f and the logits of class k:

    - ``cam`` (Zhou et al., 2016): sum_f w_kf a_f, for a linear head on averaged features.
    - ``grad_cam`` (Selvaraju et al., 2017, no ReLU): sum_f mean_hw(d logit_k / d a_f) a_f.
    - ``feature_x_gradient``: sum_f a_f d logit_k / d a_f.
    - ``gradient``: sum_f d logit_k / d a_f; of the images by default.
    - ``input_x_gradient``: sum_c x_c d logit_k / d x_c.

    At the layer that is averaged into a linear head the gradient is w_k / (H W), so the first three
    need no backward pass; otherwise there is one for each class.

    Args:
        model: maps images to logits (B, K).
        x_BCHW: images.
        kind: one of ``KINDS``.
        layer: name of the module whose output (features first, or tokens) is explained; see
            ``find_explained_layer`` for the default.
        classes: indices of the classes; None for all.
        create_graph: make the maps differentiable in the weights and the images.

    Returns:
        Maps (B, K, H, W) at the layer's resolution, one for each class asked for.

    Raises:
        InputError: if an argument, or what the model returns, cannot be used.

    Example:
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ... )
        >>> class_maps(model, torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 5, 6, 6])
        >>> class_maps(model, torch.rand(2, 3, 8, 8), kind="gradient", classes=[3]).shape
        torch.Size([2, 1, 8, 8])
    """
    with torch.inference_mode(mode=False):
        check_images(x_BCHW)
        # Maps that are recorded as a CUDA graph cannot be looked at.
        looks = not (x_BCHW.is_cuda and torch.cuda.is_current_stream_capturing())
        if looks:
            refuse_broken_images(x_BCHW)
        # A copy, as models may start in place.
        x_BCHW = (x_BCHW if create_graph else x_BCHW.detach()).clone()
        layers = _layers(model, x_BCHW, kind, layer)
        with preserved(model, x_BCHW):
            for _ in range(2):  # again, if the layer is another one now
                explained = layers.find(model, x_BCHW, kind, layer)
                needs_graph = create_graph or explained.head is None
                with torch.set_grad_enabled(needs_graph), capture(model, explained) as captured:
                    logits_BK = check_output(model(x_BCHW), len(x_BCHW))
                if layers.hold(model, x_BCHW, captured, logits_BK, kind, layer):
                    break
            with torch.set_grad_enabled(needs_graph):
                maps_BKHW = maps_of_forward(
                    captured,
                    logits_BK,
                    kind=kind,
                    classes=classes,
                    create_graph=create_graph,
                    retain_graph=create_graph,
                )
            if looks and not bool(maps_BKHW.isfinite().all()):
                refuse_what_is_not_finite(model, x_BCHW, logits_BK)
            return maps_BKHW


def maps_of_forward(
    captured: Captured,
    logits_BK: Tensor,
    *,
    kind: MapKind = "cam",
    classes: Sequence[int] | None = None,
    create_graph: bool = False,
    retain_graph: bool = True,
) -> Tensor:
    """Class maps of a forward that ``capture`` watched, from that forward's own graph.

    Args:
        captured: from ``capture``, with a layer that was found for this kind.
        logits_BK: what that forward returned.
        kind: one of ``KINDS``.
        classes: indices of the classes; None for all.
        create_graph: make the maps differentiable.
        retain_graph: leave the forward's graph usable, for the backward pass of a loss.

    Returns:
        Maps (B, K, H, W); see ``class_maps``.

    Raises:
        InputError: if the kind does not go with the layer, or an argument cannot be used.

    Example:
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ... )
        >>> x = torch.rand(2, 3, 8, 8)
        >>> from selfexplain.explanations import find_explained_layer
        >>> with capture(model, find_explained_layer(model, x)) as captured:
        ...     logits = model(x)
        >>> maps_of_forward(captured, logits).shape
        torch.Size([2, 5, 6, 6])
    """
    kind = check_kind(kind)
    logits_BK = check_output(logits_BK, len(captured.activation))
    chosen = check_classes(classes, logits_BK.shape[1])
    if captured.linear is not None and kind in POOLED_KINDS:
        check_agreement(captured, logits_BK)
        with torch.set_grad_enabled(create_graph):
            weight_KF = captured.weight_KF
            return closed_form(captured, weight_KF if classes is None else weight_KF[chosen], kind)
    if kind == "cam":
        raise no_pooled_head("this layer was found for another kind")
    with captured.buffers_lent():
        return maps_by_gradient(
            logits_BK if captured.inner_logits is None else captured.inner_logits,
            captured.activation,
            captured.layer.layout,
            kind=kind,
            classes=chosen,
            create_graph=create_graph,
            retain_graph=retain_graph,
        )


def closed_form(captured: Captured, weight_KF: Tensor, kind: MapKind) -> Tensor:
    """Maps at the pooled layer; the other two kinds are CAM over the number of positions.

    The weight's rows are those of the classes: (K, F), or (B, K, F) for each image its own.
    """
    captured.check_graph()
    maps_BKHW = cam(captured.features_BFHW, weight_KF)
    return maps_BKHW if kind == "cam" else maps_BKHW / maps_BKHW.shape[2:].numel()


def _layers(model: nn.Module, x_BCHW: Tensor, kind: MapKind, layer: str | None) -> CheckedLayers:
    """The layers that were found for a model as it is built now, and images of this shape."""
    structure = tuple((name, type(module)) for name, module in model.named_modules())
    key = (kind, layer, x_BCHW.shape[1:], x_BCHW.dtype, structure)
    found = _found.setdefault(model, {})
    return found.setdefault(key, CheckedLayers())


# Maps of classes that each image has for itself: its true one, the one it is mistaken for.


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
            _inner(captured, logits_BK).gather(1, classes_BN),
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
    score = _inner(captured, logits_BK).gather(1, classes_B1).sum()
    with captured.buffers_lent():
        return gradient_of_score(score, captured.activation, create_graph)


def _inner(captured: Captured, logits_BK: Tensor) -> Tensor:
    """The logits that may be differentiated; Fabric's wrapper forbids it for those it returns."""
    return logits_BK if captured.inner_logits is None else captured.inner_logits


def _check(classes_BN: Tensor, logits_BK: Tensor) -> Tensor:
    """Return the classes if they fit; their range is checked on the CPU, where that is free."""
    batch, n_classes = logits_BK.shape
    fits = classes_BN.ndim == 2 and len(classes_BN) == batch and classes_BN.dtype == torch.int64
    if not fits or classes_BN.shape[1] == 0:
        raise InputError(
            f"the classes are {classes_BN.dtype} of shape {tuple(classes_BN.shape)}; pass whole "
            f"numbers (int64), for each of the {batch} images its own classes"
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
