"""All metrics of one model's maps on labelled images, metric by metric.

Shape suffixes: B images, C channels, H and W space, K classes.
"""

from functools import partial

import torch
from torch import Tensor, nn

from selfexplain.data.seeding import named_generator
from selfexplain.explanations import MapKind, find_explained_layer
from selfexplain.explanations.explained_layer import ExplainedLayer
from selfexplain.explanations.quality import (
    Perturbation,
    cascade_correlations,
    deletion_auc,
    gaussian_noise,
    infidelity,
    insertion_auc,
    maps_of_classes,
    max_sensitivity,
    square_removal,
    upsampled,
)
from selfexplain.recipes.quality_options import QualityOptions

BETTER = {
    "deletion": "lower",
    "deletion_gain": "higher",
    "insertion": "higher",
    "insertion_gain": "higher",
    "infidelity": "lower",
    "infidelity_share": "lower",
    "max_sensitivity": "lower",
    "randomisation": "lower",
    "pointing": "higher",
    "probability": "",
    "accuracy": "",
}
"""Metrics, and the direction in which each is better; the last two describe the model itself."""

CHUNK = 100
"""Images at once: what all metrics keep in memory."""

NOISE = 0.2
"""Standard deviation of infidelity's noise, in units of normalised pixels; our choice."""


def map_scores(
    model: nn.Module,
    x_BCHW: Tensor,
    classes_B: Tensor,
    *,
    kind: MapKind,
    layer: str | None,
    options: QualityOptions,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Score the maps of each image's class; equal options and images meet equal random numbers.

    Returns:
        Values (B,) by metric, and rank correlations (B,) by stage of the randomised weights, from
        the head down; `randomisation` is the mean over the stages.

    Example:
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=5, in_channels=1)
        >>> options = QualityOptions(samples=2, steps=2, neighbours=1)
        >>> x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 4])
        >>> values, stages = map_scores(model, x, y, kind="cam", layer=None, options=options)
        >>> values["deletion"].shape, list(stages)[0]
        (torch.Size([2]), 'head')
    """
    found = find_explained_layer(model, x_BCHW, kind=kind, layer=layer)
    values: dict[str, list[Tensor]] = {}
    stages: dict[str, list[Tensor]] = {}
    for number, (x, y) in enumerate(zip(x_BCHW.split(CHUNK), classes_B.split(CHUNK), strict=True)):
        correlations = _cascade(model, x, y, kind, found, options)
        scores = {
            **_path_scores(model, x, y, kind, found, options, number),
            **_stability(model, x, y, kind, found, options, number),
            "randomisation": torch.stack(list(correlations.values())).mean(0),
        }
        for kept, new in ((values, scores), (stages, correlations)):
            for name, value_B in new.items():
                kept.setdefault(name, []).append(value_B.cpu())
    return _joined(values), _joined(stages)


def _path_scores(
    model: nn.Module,
    x_BCHW: Tensor,
    classes_B: Tensor,
    kind: MapKind,
    layer: ExplainedLayer,
    options: QualityOptions,
    number: int,
) -> dict[str, Tensor]:
    """Deletion and insertion, and how much better they are than with the map shuffled."""
    size_HW = (x_BCHW.shape[2], x_BCHW.shape[3])
    map_BHW = maps_of_classes(model, x_BCHW, classes_B, kind=kind, layer=layer)
    control_BHW = shuffled(map_BHW, named_generator("shuffled map", options.seed, number))
    scores = {}
    for name, auc, sign in (("deletion", deletion_auc, -1), ("insertion", insertion_auc, 1)):
        mine_B, control_B = (
            auc(
                model,
                x_BCHW,
                upsampled(maps, size_HW),
                classes_B,
                steps=options.steps,
                batch_size=options.batch_size,
            )
            for maps in (map_BHW, control_BHW)
        )
        scores[name], scores[f"{name}_gain"] = mine_B, sign * (mine_B - control_B)
    found = infidelity(
        model,
        x_BCHW,
        upsampled(map_BHW, size_HW),
        classes_B,
        perturbation_for(kind, size_HW, named_generator("infidelity", options.seed, number)),
        samples=options.samples,
        batch_size=options.batch_size,
    )
    return {**scores, "infidelity": found.value_B, "infidelity_share": found.share_B}


def _stability(
    model: nn.Module,
    x_BCHW: Tensor,
    classes_B: Tensor,
    kind: MapKind,
    layer: ExplainedLayer,
    options: QualityOptions,
    number: int,
) -> dict[str, Tensor]:
    sensitivity_B = max_sensitivity(
        partial(maps_of_classes, model, kind=kind, layer=layer),
        x_BCHW,
        classes_B,
        generator=named_generator("sensitivity", options.seed, number),
        radius=options.radius,
        samples=options.neighbours,
        batch_size=options.batch_size,
    )
    return {"max_sensitivity": sensitivity_B}


def _cascade(
    model: nn.Module,
    x_BCHW: Tensor,
    classes_B: Tensor,
    kind: MapKind,
    layer: ExplainedLayer,
    options: QualityOptions,
) -> dict[str, Tensor]:
    # The same generator for every chunk of images: one randomised network for all.
    return cascade_correlations(
        model,
        x_BCHW,
        classes_B,
        partial(maps_of_classes, kind=kind, layer=layer),
        named_generator("randomised weights", options.seed),
    )


def perturbation_for(
    kind: MapKind, size_HW: tuple[int, int], generator: torch.Generator
) -> Perturbation:
    """What infidelity does to images: noise for gradients, else squares of a quarter of the side.

    Example:
        >>> perturb = perturbation_for("cam", (8, 8), torch.Generator())
        >>> perturb(torch.rand(2, 1, 8, 8))[0].sum((1, 2))
        tensor([4., 4.])
    """
    if kind == "gradient":
        return gaussian_noise(NOISE, generator)
    return square_removal(max(1, min(size_HW) // 4), generator)


def shuffled(map_BHW: Tensor, generator: torch.Generator) -> Tensor:
    """Maps with the same values in another order, each image's own: the control of a path.

    Example:
        >>> shuffled(torch.tensor([[[1.0, 2.0]]]), torch.Generator()).sum()
        tensor(3.)
    """
    map_BP = map_BHW.flatten(1)
    order_BP = torch.rand(map_BP.shape, generator=generator).argsort(dim=1).to(map_BP.device)
    return map_BP.gather(1, order_BP).view_as(map_BHW)


def _joined(parts: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat(tensors) for name, tensors in parts.items()}
