"""Plain twins of the fast maps, written for reading: one image, one class, one loop at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from selfexplain.explanations import MapKind


def reference_cam(features_FHW: Tensor, weight_F: Tensor) -> Tensor:
    """CAM of one image and class, position by position.

    Example:
        >>> reference_cam(torch.ones(8, 1, 2), torch.ones(8))
        tensor([[8., 8.]])
    """
    width, height, breadth = features_FHW.shape
    map_HW = torch.zeros(height, breadth, dtype=features_FHW.dtype)
    for h in range(height):
        for w in range(breadth):
            for f in range(width):
                map_HW[h, w] += weight_F[f] * features_FHW[f, h, w]
    return map_HW


def reference_of_gradient(kind: MapKind, features_FHW: Tensor, gradient_FHW: Tensor) -> Tensor:
    """A gradient map of one image and class, feature by feature.

    Example:
        >>> reference_of_gradient("gradient", torch.ones(8, 1, 2), torch.ones(8, 1, 2))
        tensor([[8., 8.]])
    """
    map_HW = torch.zeros_like(features_FHW[0])
    for a_HW, gradient_HW in zip(features_FHW, gradient_FHW, strict=True):
        if kind == "grad_cam":
            map_HW += gradient_HW.mean() * a_HW
        elif kind == "gradient":
            map_HW += gradient_HW
        else:  # feature_x_gradient and, of the images, input_x_gradient
            map_HW += a_HW * gradient_HW
    return map_HW


def reference_class_maps(
    features: Callable[[Tensor], Tensor],
    rest: Callable[[Tensor], Tensor],
    x_BCHW: Tensor,
    *,
    kind: MapKind,
    weight_KF: Tensor | None = None,
) -> Tensor:
    """Maps of a model given in two halves, ``rest(features(x))``, in eval mode.

    Args:
        features: images to the explained activation (B, F, H, W); the identity for the images.
        rest: that activation to logits (B, K).
        x_BCHW: images.
        kind: one of ``KINDS``.
        weight_KF: weight of the linear head, for ``cam`` only.

    Returns:
        Maps (B, K, H, W).

    Example:
        >>> x = torch.ones(1, 1, 1, 2)
        >>> reference_class_maps(lambda x: x, lambda a: a.sum((2, 3)), x, kind="gradient")
        tensor([[[[1., 1.]]]])
    """
    images = []
    for x_CHW in x_BCHW.unbind():
        a_1FHW = features(x_CHW[None]).detach()
        maps = []
        for k in range(rest(a_1FHW).shape[1]):
            if weight_KF is not None and kind == "cam":
                maps.append(reference_cam(a_1FHW[0], weight_KF[k].detach()))
                continue
            leaf_1FHW = a_1FHW.clone().requires_grad_()
            (gradient_1FHW,) = torch.autograd.grad(rest(leaf_1FHW.clone())[0, k], leaf_1FHW)
            maps.append(reference_of_gradient(kind, a_1FHW[0], gradient_1FHW[0]))
        images.append(torch.stack(maps))
    return torch.stack(images)
