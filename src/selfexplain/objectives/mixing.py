"""Mixup and CutMix, with labels by area or by explanation, around any objective.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfexplain.distributed import rank
from selfexplain.errors import InputError
from selfexplain.explanations import class_maps, find_explained_layer
from selfexplain.objectives.options import CutMixLabels, CutMixOptions, MixupOptions
from selfexplain.objectives.shared.base import (
    Choice,
    Counts,
    Objective,
    ObjectiveContext,
    Range,
    Tunable,
    Wrapper,
    check_class_indices,
)

SEEDS = 2**64
"""How many there are."""


def as_distributions(y_B: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Labels as distributions (B, K): one-hot rows for class indices (B,); (B, K) as they are."""
    if y_B.ndim == 2:
        if y_B.shape[1] != num_classes or not y_B.is_floating_point():
            raise InputError(
                f"the soft labels are {y_B.dtype} of shape {tuple(y_B.shape)} for {num_classes} "
                "classes; pass one distribution over the classes for each image"
            )
        return y_B
    check_class_indices(y_B, num_classes)
    zeros_BK = torch.zeros(len(y_B), num_classes, dtype=dtype, device=y_B.device)
    return zeros_BK.scatter_(1, y_B.unsqueeze(1), 1.0)


def mix_labels(y_BK: Tensor, partner_B: Tensor, share: float) -> Tensor:
    """Mix labels (B, K): share y_i + (1 - share) y_j, with j the partner of i."""
    return share * y_BK + (1 - share) * y_BK[partner_B]


class Mixing(Wrapper):
    """An objective that sees mixed images and mixed labels in training, and neither in evaluation.

    The base of `Mixup` and `CutMix`.

    In each training step the images' partners are a permutation of the batch, and one share is
    drawn for the whole batch. The draws are a function of seed, step and process: the global
    generators are untouched, and a training that is resumed from `state_dict()` draws what the
    unbroken one would have.

    Args:
        objective: takes soft labels.
        num_classes: K.
        alpha: shares are drawn from Beta(alpha, alpha).
        probability: of mixing in a step; the other steps see the images as they are.
        seed: of the draws, from 0 to 2**64 - 1.

    Raises:
        InputError: the objective cannot use mixed images, or alpha, probability or seed is out of
            range.

    Example:
        >>> from selfexplain.objectives import CutMix, Standard
        >>> objective = CutMix(Standard(torch.nn.Flatten()), num_classes=4, seed=7)
        >>> out = objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 3]))
        >>> objective.seed, objective.steps
        (7, 1)
    """

    takes_soft_labels = True

    def __init__(
        self,
        objective: Objective,
        num_classes: int,
        alpha: float = MixupOptions.alpha,
        probability: float = MixupOptions.probability,
        seed: int = 0,
    ) -> None:
        if reason := refusal(objective):
            name = type(objective).__name__
            raise InputError(f"{name} {reason}; pass an objective without that, such as Standard")
        if not 0 <= seed < SEEDS:
            raise InputError(f"seed is {seed}; pass a whole number from 0 to 2**64 - 1")
        MixupOptions.check(alpha=alpha, probability=probability)
        super().__init__(objective)
        self.num_classes = num_classes
        self.alpha = alpha
        self.probability = probability
        self.counts = Counts(seed=_signed(seed), steps=0)

    @property
    def seed(self) -> int:
        """Of the draws."""
        return self.counts["seed"] % SEEDS

    @property
    def steps(self) -> int:
        """Training steps so far, mixed or not."""
        return self.counts["steps"]

    @classmethod
    def around(cls, objective: Objective, context: ObjectiveContext, **options: Any) -> Self:
        """Build it in a run, around an objective; the run's seed is that of the draws."""
        return cls(objective, context.num_classes, seed=torch.initial_seed(), **options)

    def mix(
        self, x_BCHW: Tensor, partner_B: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, float]:
        """Mix images with their partners; return them and the share that is the images' own.

        Subclasses implement it.
        """
        raise NotImplementedError

    def mix_batch(
        self, x_BCHW: Tensor, y_BK: Tensor, partner_B: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Images and labels (B, K), mixed; subclasses whose labels need more than a share do."""
        x_BCHW, share = self.mix(x_BCHW, partner_B, generator)
        return x_BCHW, mix_labels(y_BK, partner_B, share)

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W), mixed in training, and labels (B,) or (B, K)."""
        if not self.training:
            return self.objective(x_BCHW, y_B)  # type: ignore[no-any-return]
        y_BK = as_distributions(y_B, self.num_classes, _at_least_float(x_BCHW.dtype))
        generator = self._generator()
        self.counts["steps"] += 1
        if generator.random() < self.probability:
            partner_B = torch.from_numpy(generator.permutation(len(y_BK))).to(y_BK.device)
            x_BCHW, y_BK = self.mix_batch(x_BCHW, y_BK, partner_B, generator)
        return self.objective(x_BCHW, y_BK)  # type: ignore[no-any-return]

    def get_extra_state(self) -> Tensor:
        """What the draws to come depend on: seed and steps, (2,)."""
        return self.counts.tensor_N

    def set_extra_state(self, state: Tensor | Mapping[str, int]) -> None:
        """Restore what `get_extra_state` returned."""
        if isinstance(state, Mapping):  # of version 0.1.0
            state = {**state, "seed": _signed(state["seed"])}
        self.counts.load(state)

    def _generator(self) -> np.random.Generator:
        """Of this step. NumPy's, as torch draws from Beta with its global generator only."""
        name = type(self).__name__.encode()  # one within the other must not draw alike
        return np.random.default_rng([self.seed, self.steps, rank(), *name])


def refusal(objective: Objective | type[Objective]) -> str | None:
    """Why an objective cannot be trained on mixed images; None if it can."""
    if not objective.takes_soft_labels:
        return "needs one class for each image, and a mixed image has two"
    if objective.wants_indices:
        return "remembers each image by its place, and a mixed image is another one at every step"
    return None


def _signed(seed: int) -> int:
    """A seed of 64 bits as a checkpoint's whole number, which has a sign."""
    return seed - SEEDS if seed >= SEEDS // 2 else seed


def _at_least_float(dtype: torch.dtype) -> torch.dtype:
    """Shares of labels need more digits than images in half precision have."""
    return torch.promote_types(dtype, torch.float32)


# Mixup (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization").


def mix_images(x_BCHW: Tensor, partner_B: Tensor, share: float) -> Tensor:
    """Mix images (B, C, H, W): share x_i + (1 - share) x_j, with j the partner of i."""
    return share * x_BCHW + (1 - share) * x_BCHW[partner_B]


class Mixup(Mixing):
    """L = L(objective) of images and labels that are mixed pixel by pixel.

        x' = l x_i + (1 - l) x_j,   y' = l y_i + (1 - l) y_j,   l ~ Beta(alpha, alpha)

    Args:
        objective: takes soft labels.
        num_classes: K.
        alpha: large values mix halves, small ones leave most images nearly as they are; 1 as
            published for CIFAR.
        probability: of mixing in a step; 1 as published.
        seed: of the draws.

    Raises:
        InputError: the objective cannot use mixed images, or alpha or probability is out of range.

    Example:
        >>> import torch
        >>> from selfexplain.objectives import LabelSmoothing
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> objective = Mixup(LabelSmoothing(model), num_classes=3)
        >>> objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))["loss"].backward()
    """

    tunable: ClassVar[Mapping[str, Tunable]] = {"alpha": Range(0.1, 2.0, log=True)}

    def mix(
        self, x_BCHW: Tensor, partner_B: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, float]:
        """Mix images (B, C, H, W) with their partners; return them and the share l."""
        share = float(generator.beta(self.alpha, self.alpha))
        return mix_images(x_BCHW, partner_B, share), share


# CutMix (Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers").


class Box(NamedTuple):
    """Rows top to bottom - 1 and columns left to right - 1, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """In pixels."""
        return (self.bottom - self.top) * (self.right - self.left)


def draw_box(height: int, width: int, share: float, generator: np.random.Generator) -> Box:
    """A box of the image's shape and (1 - share) of its area, around a pixel drawn evenly.

    What would lie outside the image is cut off, so that the box may be smaller than asked for.
    """
    side = math.sqrt(1 - share)
    top, bottom = _interval(height, int(height * side), generator)
    left, right = _interval(width, int(width * side), generator)
    return Box(top, bottom, left, right)


def paste_box(x_BCHW: Tensor, partner_B: Tensor, box: Box) -> Tensor:
    """Copies of the images (B, C, H, W) with the box taken from each one's partner."""
    pasted_BCHW = x_BCHW.clone()
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    pasted_BCHW[:, :, rows, columns] = x_BCHW[:, :, rows, columns][partner_B]
    return pasted_BCHW


# Labels by explanation (Huang et al. 2021, "SnapMix: Semantically Proportional Mixing for
# Augmenting Fine-grained Data").


@torch.no_grad()
def mass_in_box(maps_BHW: Tensor, size: tuple[int, int], box: Box) -> Tensor:
    """Share of each map's mass that lies in a box of the image: (B,), in [0, 1].

    A map is brought to the image's size by bilinear interpolation, and its smallest value is taken
    from it, as in SnapMix. A map of one value says no more than the area does.

    Args:
        maps_BHW: at any resolution; of any sign.
        size: height and width of the image in pixels.
        box: in pixels.

    Example:
        >>> mass_in_box(torch.tensor([[[0.0, 3.0]], [[1.0, 1.0]]]), (1, 2), Box(0, 1, 1, 2))
        tensor([1.0000, 0.5000])
    """
    pixels_BHW = F.interpolate(maps_BHW.unsqueeze(1), size=size, mode="bilinear").squeeze(1)
    noise_B = pixels_BHW.abs().sum(dim=(1, 2)) * torch.finfo(pixels_BHW.dtype).eps
    pixels_BHW = pixels_BHW - pixels_BHW.amin(dim=(1, 2), keepdim=True)
    total_B = pixels_BHW.sum(dim=(1, 2))
    inside_B = pixels_BHW[:, box.top : box.bottom, box.left : box.right].sum(dim=(1, 2))
    by_area_B = torch.full_like(total_B, box.area / (size[0] * size[1]))
    return torch.where(total_B > 4 * noise_B, inside_B / total_B, by_area_B)


class CutMix(Mixing):
    """L = L(objective) of images with a box of another, and labels mixed by area.

        y' = l y_i + (1 - l) y_j,   1 - l the box's share of the area

    The box is drawn for 1 - l with l ~ Beta(alpha, alpha); where a part of it falls outside the
    image, l is what remains.

    With labels by explanation (SnapMix) each image has two shares of its own: 1 - l_i is the box's
    share of image i's class activation map of its own label, and its partner gives the share that
    the box has of the partner's map,

        y' = l_i y_i + (1 - l_j) y_j

    which need not sum to 1: a box of background that covers the object leaves little to learn. The
    maps are made of the model as it is, of the images before they are mixed, in one more forward
    pass; the boxes are those that labels by area have.

    Args:
        objective: takes soft labels.
        num_classes: K.
        alpha: 1 as published, which makes every l as likely.
        probability: of mixing in a step; 1 as the authors' code has it for ImageNet, 0.5 for CIFAR.
        seed: of the draws.
        labels: area or explanation.

    Raises:
        InputError: the objective cannot use mixed images, or an option is out of range; at a call,
            for labels by explanation, if the model has no layer to explain.

    Example:
        >>> import torch
        >>> from selfexplain.objectives import Standard
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> objective = CutMix(Standard(model), num_classes=3, probability=0.5)
        >>> objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))["loss"].backward()
    """

    tunable: ClassVar[Mapping[str, Tunable]] = {
        "alpha": Range(0.1, 2.0, log=True),
        "probability": Choice(0.5, 1.0),
    }

    def __init__(
        self,
        objective: Objective,
        num_classes: int,
        alpha: float = CutMixOptions.alpha,
        probability: float = CutMixOptions.probability,
        seed: int = 0,
        labels: CutMixLabels = CutMixOptions.labels,
    ) -> None:
        CutMixOptions.check(labels=labels)
        super().__init__(objective, num_classes, alpha, probability, seed)
        self.labels = labels
        self._explained = False

    def mix(
        self, x_BCHW: Tensor, partner_B: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, float]:
        """Paste a box of its partner into each image; return them and the share l left."""
        height, width = x_BCHW.shape[2:]
        box = self._draw(height, width, generator)
        return paste_box(x_BCHW, partner_B, box), 1 - box.area / (height * width)

    def mix_batch(
        self, x_BCHW: Tensor, y_BK: Tensor, partner_B: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Images and labels (B, K), mixed by area or by explanation."""
        if self.labels == "area":
            return super().mix_batch(x_BCHW, y_BK, partner_B, generator)
        height, width = x_BCHW.shape[2:]
        box = self._draw(height, width, generator)
        self._check_explained(x_BCHW)
        maps_BKHW = class_maps(self.model, x_BCHW).to(y_BK.dtype)
        maps_BHW = torch.einsum("bk,bkhw->bhw", y_BK, maps_BKHW)  # of mixed labels the mean
        inside_B1 = mass_in_box(maps_BHW, (height, width), box).unsqueeze(1)
        y_BK = (1 - inside_B1) * y_BK + (inside_B1 * y_BK)[partner_B]
        return paste_box(x_BCHW, partner_B, box), y_BK

    def _check_explained(self, x_BCHW: Tensor) -> None:
        """Raise InputError, in the first step, unless the model has class activation maps."""
        if self._explained:
            return
        try:
            find_explained_layer(self.model, x_BCHW)
        except InputError as error:
            reason = str(error).partition(";")[0]
            raise InputError(f"labels by explanation: {reason}; pass labels area") from error
        self._explained = True

    def _draw(self, height: int, width: int, generator: np.random.Generator) -> Box:
        """This step's box."""
        share = float(generator.beta(self.alpha, self.alpha))
        return draw_box(height, width, share, generator)


def _interval(size: int, length: int, generator: np.random.Generator) -> tuple[int, int]:
    """Start and end of `length` pixels around an evenly drawn one, cut off at 0 and `size`."""
    start = int(generator.integers(size)) - length // 2
    return max(start, 0), min(start + length, size)
