"""What the metrics of maps share: baselines, perturbations, scores of many variants of an image.

Shape suffixes: N variants, B images, C channels, H and W space, K classes.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import MapKind
from selfexplain.explanations.hooks import capture, preserved
from selfexplain.explanations.layout import ExplainedLayer, check_images, check_output
from selfexplain.explanations.own_classes import maps_of_own_classes

# What stands in for pixels that are taken away (B batch, C channels, H W space).


BLUR = 1 / 8
"""Standard deviation of the blur as a share of the shorter side: our choice."""


def mean_baseline(x_BCHW: Tensor) -> Tensor:
    """Each image's own mean colour, everywhere.

    Example:
        >>> mean_baseline(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])).unique()
        tensor([1.5000])
    """
    return x_BCHW.mean((2, 3), keepdim=True).expand_as(x_BCHW)


def blur_baseline(x_BCHW: Tensor) -> Tensor:
    """Each image blurred by a Gaussian of an eighth of its shorter side, mirrored at the edges.

    Example:
        >>> blur_baseline(torch.ones(1, 3, 16, 16)).sub(1).abs().max() < 1e-6
        tensor(True)
    """
    sigma = BLUR * min(x_BCHW.shape[2:])
    radius = min(int(3 * sigma), min(x_BCHW.shape[2:]) - 1)
    place = torch.arange(-radius, radius + 1, device=x_BCHW.device, dtype=x_BCHW.dtype)
    weight = (-place.square() / (2 * sigma**2)).exp()
    weight = (weight / weight.sum()).expand(x_BCHW.shape[1], 1, 1, -1)
    channels = x_BCHW.shape[1]
    padded = F.pad(x_BCHW, (radius, radius, radius, radius), mode="reflect")
    rows = F.conv2d(padded, weight, groups=channels)
    return F.conv2d(rows, weight.transpose(2, 3), groups=channels)


# One map an image, of a class of its own (B images, C channels, K classes, H and W space).


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
        with preserved(model, x_BCHW, eval_mode=True), capture(model, layer) as captured:
            return maps_of_own_classes(
                captured, model(x_BCHW), index_B1, kind=kind, retain_graph=False
            )[:, 0]


# Random changes of images, and what a map is multiplied with to foretell their effect.
#
# Numbers are drawn on the CPU, by a generator of one's own, so that they are the same on every
# device.


Perturbation = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images x_BCHW to weights_BHW and the changed images: one draw for each image."""


def square_removal(side: int, generator: torch.Generator) -> Perturbation:
    """Replace a square at a random place by the image's mean colour; weights: 1 in the square.

    For maps of evidence, whose sum over a region says how much the region counts for the class.

    Args:
        side: of the square, in pixels; no more than the images have.
        generator: of the places.

    Example:
        >>> removal = square_removal(2, torch.Generator().manual_seed(0))
        >>> removal(torch.rand(3, 1, 8, 8))[0].sum((1, 2))
        tensor([4., 4., 4.])
    """

    def perturb(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        inside = [
            _intervals(len(x_BCHW), size, min(side, size), generator) for size in x_BCHW.shape[2:]
        ]
        weight_BHW = (inside[0][:, :, None] & inside[1][:, None, :]).to(x_BCHW.device)
        changed = torch.where(weight_BHW[:, None], mean_baseline(x_BCHW), x_BCHW)
        return weight_BHW.to(x_BCHW.dtype), changed

    return perturb


def gaussian_noise(sigma: float, generator: torch.Generator) -> Perturbation:
    """Subtract Gaussian noise, the same for all channels of a pixel; weights: the noise.

    For signed gradients summed over channels: their product with the noise is the first-order
    change of the logit.

    Args:
        sigma: standard deviation, in the units of the images that the model takes.
        generator: of the noise.

    Example:
        >>> noise = gaussian_noise(0.2, torch.Generator().manual_seed(0))
        >>> weight_BHW, changed_BCHW = noise(torch.zeros(2, 3, 8, 8))
        >>> torch.equal(changed_BCHW[:, 2], -weight_BHW)
        True
    """

    def perturb(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(x_BCHW), *x_BCHW.shape[2:])
        weight_BHW = (sigma * torch.randn(shape, generator=generator)).to(x_BCHW)
        return weight_BHW, x_BCHW - weight_BHW[:, None]

    return perturb


def _intervals(count: int, size: int, length: int, generator: torch.Generator) -> Tensor:
    """Random intervals of a length among `size` places, as masks (count, size)."""
    start = torch.randint(size - length + 1, (count, 1), generator=generator)
    place = torch.arange(size)
    return (place >= start) & (place < start + length)


def class_logits(model: nn.Module, x_NBCHW: Tensor, classes_B: Tensor) -> Tensor:
    """The logit of each image's class, (N, B)."""
    return _of_class(_logits(model, x_NBCHW), classes_B)


def class_probabilities(model: nn.Module, x_NBCHW: Tensor, classes_B: Tensor) -> Tensor:
    """The softmax probability of each image's class, (N, B)."""
    return _of_class(_logits(model, x_NBCHW).float().softmax(dim=2), classes_B)


def chunks(count: int, images: int, batch_size: int) -> Iterator[range]:
    """Numbers 0 .. count - 1 in runs of as many variants of all images as a batch may hold.

    Example:
        >>> [list(chunk) for chunk in chunks(5, images=4, batch_size=8)]
        [[0, 1], [2, 3], [4]]
    """
    size = max(1, batch_size // images)
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def upsampled(map_BHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Maps at the resolution of the images, bilinear.

    Example:
        >>> upsampled(torch.zeros(2, 4, 4), (32, 32)).shape
        torch.Size([2, 32, 32])
    """
    return F.interpolate(map_BHW[:, None], size_HW, mode="bilinear", align_corners=False)[:, 0]


def check_explained(x_BCHW: Tensor, map_BHW: Tensor, classes_B: Tensor) -> None:
    """Raise InputError unless there is one finite map, of the image's size, and class for each.

    Example:
        >>> check_explained(torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8), torch.tensor([0, 1]))
    """
    check_images(x_BCHW)
    expected = (len(x_BCHW), *x_BCHW.shape[2:])
    if map_BHW.shape != expected or not bool(map_BHW.isfinite().all()):
        raise InputError(
            f"the maps have shape {tuple(map_BHW.shape)}; pass finite maps of shape {expected}, "
            "one for each image and of its size (see upsampled)"
        )
    if classes_B.shape != (len(x_BCHW),) or classes_B.is_floating_point():
        raise InputError(
            f"classes have shape {tuple(classes_B.shape)} and type {classes_B.dtype}; "
            f"pass {len(x_BCHW)} whole numbers, one class for each image"
        )


def _logits(model: nn.Module, x_NBCHW: Tensor) -> Tensor:
    count, images = x_NBCHW.shape[:2]
    logits = check_output(model(x_NBCHW.flatten(0, 1)), count * images)
    return logits.view(count, images, -1)


def _of_class(values_NBK: Tensor, classes_B: Tensor) -> Tensor:
    index_NB1 = classes_B.to(values_NBK.device).expand(len(values_NBK), -1)[..., None]
    return values_NBK.gather(2, index_NB1)[..., 0]
