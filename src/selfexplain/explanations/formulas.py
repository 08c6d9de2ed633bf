"""What each kind of map computes, as pure functions (B batch, K classes, F features, H W space)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.explanations.kinds import MapKind
from selfexplain.explanations.layout import Layout, to_BFHW


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
    """Grad-CAM of one class, without the ReLU: ``sum_f mean_hw(d logit / d a_f) a_f``.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017.

    Returns:
        Maps (B, H, W).

    Example:
        >>> grad_cam_of(torch.ones(2, 8, 4, 4), torch.ones(2, 8, 4, 4)).shape
        torch.Size([2, 4, 4])
    """
    return (gradient_BFHW.mean((2, 3), keepdim=True) * features_BFHW).sum(1)


def feature_x_gradient_of(features_BFHW: Tensor, gradient_BFHW: Tensor) -> Tensor:
    """Feature times gradient of one class: ``sum_f a_f d logit / d a_f``; maps (B, H, W).

    Example:
        >>> feature_x_gradient_of(torch.ones(2, 8, 4, 4), torch.ones(2, 8, 4, 4)).shape
        torch.Size([2, 4, 4])
    """
    return (features_BFHW * gradient_BFHW).sum(1)


def gradient_of(_features_BFHW: Tensor, gradient_BFHW: Tensor) -> Tensor:
    """Signed saliency of one class: ``sum_f d logit / d a_f``; maps (B, H, W).

    Example:
        >>> gradient_of(torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 4, 4])
    """
    return gradient_BFHW.sum(1)


# Input times gradient is feature times gradient where the features are the images themselves.
OF_GRADIENT: dict[MapKind, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam_of,
    "feature_x_gradient": feature_x_gradient_of,
    "gradient": gradient_of,
    "input_x_gradient": feature_x_gradient_of,
}


# Maps by automatic differentiation (B batch, K classes, F features, H W space).


RECOMPUTED = (
    "the model is checkpointed with use_reentrant=True, which gives no gradients of single "
    "tensors; pass use_reentrant=False to the checkpointing (torch.utils.checkpoint, or the option "
    "of the library that calls it)"
)


def maps_by_gradient(
    logits_BK: Tensor,
    activation: Tensor,
    layout: Layout,
    *,
    kind: MapKind,
    classes: Sequence[int],
    create_graph: bool = False,
    retain_graph: bool = True,
) -> Tensor:
    """Maps of ``classes`` from the gradients of their logits with respect to ``activation``.

    One backward pass a class. All classes in one batched pass (``is_grads_batched``) took as long
    on the CPU (mostly 0.84 to 1.15 times, at worst 1.3; 10 and 100 classes), needs the memory of
    all gradients at once, and does not work with every operation, so it is not used.

    Args:
        logits_BK: logits of the forward that computed ``activation``.
        activation: tensor in the graph of ``logits_BK``.
        layout: how to read ``activation``.
        kind: any kind but ``cam``.
        classes: indices of the classes.
        create_graph: keep the maps differentiable.
        retain_graph: leave the graph of ``logits_BK`` usable.

    Returns:
        Maps (B, len(classes), H, W).

    Raises:
        InputError: if the logits do not depend on ``activation``.

    Example:
        >>> a = torch.ones(1, 1, 2, 2, requires_grad=True)
        >>> maps_by_gradient(a.sum((2, 3)), a, Layout("BCHW", 1), kind="gradient", classes=[0])
        tensor([[[[1., 1.],
                  [1., 1.]]]])
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
    """Gradient of a scalar with respect to ``activation``, in its shape.

    Raises:
        InputError: if the score does not depend on ``activation``.

    Example:
        >>> a = torch.ones(2, requires_grad=True)
        >>> gradient_of_score((a * a).sum(), a)
        tensor([2., 2.])
    """
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


def gradients_of_score(
    score: Tensor,
    activations: Sequence[Tensor],
    create_graph: bool = False,
    retain_graph: bool = False,
) -> Sequence[Tensor | None]:
    """Gradients of a scalar; None for what it does not depend on.

    Raises:
        InputError: if parts of the model are checkpointed in the way that forbids it.

    Example:
        >>> a = torch.ones(2, requires_grad=True)
        >>> gradients_of_score((a * a).sum(), [a])
        (tensor([2., 2.]),)
    """
    try:
        return torch.autograd.grad(
            score,
            activations,
            retain_graph=retain_graph,
            create_graph=create_graph,
            allow_unused=True,
        )
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise InputError(RECOMPUTED) from error
        raise
