"""The explanation: a bounded perturbation, how it grows, and what of it the audience sees.

An explanation is held as z, unbounded, in pixel units; delta = eps tanh(z / eps) is the
perturbation, within eps and smooth in z. B images, C channels, H and W space.
"""

import torch
from torch import Tensor

from selfexplain.lease.options import Shown

TINY = 1e-12
"""Added to squares under a root, so that an image with a zero gradient stays finite."""


def bounded(z_BCHW: Tensor, eps: float) -> Tensor:
    """Delta = eps tanh(z / eps): smooth, |delta| < eps, and z itself where z is small.

    Example:
        >>> bounded(torch.tensor([0.0, 100.0]), eps=0.5)
        tensor([0.0000, 0.5000])
    """
    return eps * torch.tanh(z_BCHW / eps)


def normalised(gradient_BCHW: Tensor) -> Tensor:
    """The gradient divided by its root mean square in each image.

    Example:
        >>> normalised(torch.full((1, 1, 1, 2), 4.0))
        tensor([[[[1., 1.]]]])
    """
    mean_square = gradient_BCHW.square().mean(dim=(1, 2, 3), keepdim=True)
    # Relative to the gradient's own size, which is tiny late in training.
    return gradient_BCHW * (mean_square + TINY * mean_square.detach() + 1e-30).rsqrt()


def straight_through_sign(gradient_BCHW: Tensor) -> Tensor:
    """The sign, with the derivative of `normalised`: its own is zero almost everywhere.

    Example:
        >>> g = torch.tensor([[[[3.0, -0.1]]]], requires_grad=True)
        >>> straight_through_sign(g)
        tensor([[[[ 1., -1.]]]], grad_fn=<AddBackward0>)
    """
    smooth = normalised(gradient_BCHW)
    return smooth + (gradient_BCHW.sign() - smooth).detach()


def magnitude(gradient_BCHW: Tensor) -> Tensor:
    """The absolute gradient divided by its root mean square in each image: plain saliency.

    Example:
        >>> magnitude(torch.full((1, 1, 1, 2), -4.0))
        tensor([[[[1., 1.]]]])
    """
    return normalised(gradient_BCHW).abs()


DIRECTIONS = {"normalised": normalised, "plain": None, "sign": straight_through_sign}
"""Name of an attack -> map of the gradient along which it steps; None for the gradient."""


def shuffled(delta_BCHW: Tensor, order_BP: Tensor) -> Tensor:
    """Each image's pixels in another order.

    Args:
        delta_BCHW: (B, C, H, W).
        order_BP: (B, H * W), a permutation of the pixels for each image.

    Example:
        >>> shuffled(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[1, 0]]))
        tensor([[[[2., 1.]]]])
    """
    flat_BCP = delta_BCHW.flatten(2)
    order_BCP = order_BP[:, None, :].expand_as(flat_BCP)
    return flat_BCP.gather(2, order_BCP).reshape(delta_BCHW.shape)


def shown_to_audience(x_BCHW: Tensor, delta_BCHW: Tensor, eps: float, shown: Shown) -> Tensor:
    """The image weighted by what its prediction hangs on.

    Delta is taken in units of eps, so that what the audience sees is of an image's size; its own
    BatchNorm statistics would undo another constant.

    Args:
        x_BCHW: images as the networks see them.
        delta_BCHW: the perturbation, in pixel units.
        eps: its bound.
        shown: product, magnitude or emphasis; see `LeaSEOptions.shown`.

    Returns:
        (B, C, H, W).

    Example:
        >>> x, delta = torch.ones(1, 1, 1, 2), torch.tensor([[[[0.5, -0.25]]]])
        >>> shown_to_audience(x, delta, eps=0.5, shown="emphasis")
        tensor([[[[2.0000, 1.5000]]]])
    """
    if shown == "product":
        return x_BCHW * delta_BCHW / eps
    size_BCHW = delta_BCHW.abs()
    if shown == "magnitude":
        return x_BCHW * size_BCHW / size_BCHW.amax(dim=(1, 2, 3), keepdim=True).clamp(min=TINY)
    return x_BCHW * (1 + size_BCHW / eps)
