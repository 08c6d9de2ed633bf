"""Soft masks: what the audience sees of an image is what lies above the image's median evidence.

    mask = sigmoid((e - median(e)) / (tau s))        s = mean |e - median(e)|, image by image

e is the evidence at each pixel: the size of an attack, a class activation map, or squared input
gradients. Median and spread are part of the function and are differentiated with it (the median's
derivative goes to the pixel in the middle, the lower of the two), so that adding to all evidence of
an image, or multiplying it, changes nothing and has no gradient.

Shape suffixes: B batch, C channels, F features, K classes, H and W space, h and w of features.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from selfexplain.data import gaussian_blur
from selfexplain.errors import InputError
from selfexplain.explanations import cam, capture, find_explained_layer
from selfexplain.explanations.layout import ExplainedLayer
from selfexplain.hypergradients import as_function
from selfexplain.hypergradients.level import Variables
from selfexplain.spaces import Supernet
from selfexplain.spaces.supernet import WithArchitecture

SMOOTHING = 1 / 32
"""Standard deviation of the blur of evidence that goes pixel by pixel, in sides of the image."""

FLAT = 1e-6
"""Added to the spread of evidence, which is about 1 in size: a flat map makes a flat mask."""


def smoothed(values_BCHW: Tensor) -> Tensor:
    """The mean over the channels, blurred: (B, 1, H, W)."""
    side = max(values_BCHW.shape[2:])
    return gaussian_blur(values_BCHW.mean(1, keepdim=True), side * SMOOTHING)


def about_median(evidence_B1HW: Tensor) -> Tensor:
    """Evidence less its median in each image, in units of its mean distance from that."""
    flat_BP = evidence_B1HW.flatten(1)
    centred_BP = flat_BP - flat_BP.median(dim=1, keepdim=True).values
    spread_B1 = centred_BP.abs().mean(dim=1, keepdim=True) + FLAT
    return (centred_BP / spread_B1).reshape(evidence_B1HW.shape)


def soft_mask(evidence_B1HW: Tensor, tau: float) -> Tensor:
    """Sigmoid of the evidence about its median over tau: (B, 1, H, W), half at the median.

    Example:
        >>> soft_mask(torch.tensor([[[[0.0, 1.0, 2.0]]]]), tau=1.0)
        tensor([[[[0.1824, 0.5000, 0.8176]]]])
    """
    return torch.sigmoid(about_median(evidence_B1HW) / tau)


# Class activation maps of a supernet whose weights and architecture are variables.


class ExplainerMaps:
    """Class activation maps of the explainer, differentiable towards weights and architecture.

    Args:
        supernet: the explainer; left as it is.

    Example:
        >>> from selfexplain.spaces import build_supernet
        >>> net = build_supernet(
        ...     "nasbench201", num_classes=2, in_channels=1, image_size=16, channels=4, cells=1
        ... )
        >>> v = {"explainer": dict(net.named_parameters()), "architecture": net.new_architecture()}
        >>> x_BCHW = torch.randn(3, 1, 16, 16)
        >>> ExplainerMaps(net)(v, x_BCHW, lambda logits_BK: logits_BK.argmax(1)).shape
        torch.Size([3, 1, 16, 16])
    """

    def __init__(self, supernet: Supernet) -> None:
        self.supernet = supernet
        self._layer: ExplainedLayer | None = None

    def __call__(self, v: Variables, x_BCHW: Tensor, target: Callable[[Tensor], Tensor]) -> Tensor:
        """Maps (B, 1, H, W) of the classes that the target makes of the logits.

        Raises:
            InputError: the supernet has no feature map of several positions under a pooled head.
        """
        weights, architecture = v["explainer"], v["architecture"]
        assert isinstance(weights, dict)
        assert isinstance(architecture, dict)
        model = WithArchitecture(self.supernet, architecture)
        if self._layer is None:
            self._layer = _pooled_layer(self.supernet, architecture, x_BCHW)
        with capture(model, self._layer) as captured:
            named = {f"supernet.{name}": tensor for name, tensor in weights.items()}
            logits_BK = as_function(model)(named, x_BCHW)
        weight_B1F = captured.weight_KF[target(logits_BK)][:, None, :]
        maps_B1hw = cam(captured.features_BFHW, weight_B1F)
        return F.interpolate(maps_B1hw, size=x_BCHW.shape[2:], mode="bilinear", align_corners=False)


def _pooled_layer(
    supernet: Supernet, architecture: Mapping[str, Tensor], x_BCHW: Tensor
) -> ExplainedLayer:
    held = {name: tensor.detach() for name, tensor in architecture.items()}
    try:
        model = WithArchitecture(supernet, held)
        return find_explained_layer(model, x_BCHW.detach(), kind="cam")
    except InputError as error:
        raise InputError(
            "explanation cam needs an explainer whose last feature map has several positions and "
            "is averaged into a linear head, and this one has none; pass larger images, or "
            "explanation attack or squared_gradients"
        ) from error
