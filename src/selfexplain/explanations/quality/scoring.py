"""Logits of many variants of the same images, without a trace in the model.

Shape suffixes: N variants, B images, C channels, H and W space, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations.kinds import check_images, check_logits
from selfexplain.explanations.state import preserved, set_eval


@contextmanager
def untouched(model: nn.Module, x_BCHW: Tensor) -> Iterator[None]:
    """Run forwards in eval mode and without gradients; afterwards all is as it was.

    Eval mode, whatever mode the model is in: BatchNorm's batch statistics would mix the variants.

    Example:
        >>> model = nn.Dropout()
        >>> with untouched(model, torch.zeros(1, 1, 2, 2)):
        ...     model.training
        False
        >>> model.training
        True
    """
    with preserved(model, x_BCHW), torch.no_grad():
        set_eval(model)
        yield


def class_logits(model: nn.Module, x_NBCHW: Tensor, classes_B: Tensor) -> Tensor:
    """The logit of each image's class, (N, B).

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> class_logits(model, torch.zeros(5, 2, 1, 2, 2), torch.tensor([0, 2])).shape
        torch.Size([5, 2])
    """
    return _of_class(_logits(model, x_NBCHW), classes_B)


def class_probabilities(model: nn.Module, x_NBCHW: Tensor, classes_B: Tensor) -> Tensor:
    """The softmax probability of each image's class, (N, B).

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> class_probabilities(model, torch.zeros(5, 2, 1, 2, 2), torch.tensor([0, 2])).shape
        torch.Size([5, 2])
    """
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
    logits = check_logits(model(x_NBCHW.flatten(0, 1)), count * images)
    return logits.view(count, images, -1)


def _of_class(values_NBK: Tensor, classes_B: Tensor) -> Tensor:
    index_NB1 = classes_B.to(values_NBK.device).expand(len(values_NBK), -1)[..., None]
    return values_NBK.gather(2, index_NB1)[..., 0]
