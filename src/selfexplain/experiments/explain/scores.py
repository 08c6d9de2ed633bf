"""All metrics of one model's maps on labelled images, metric by metric.

Shape suffixes: B images, C channels, H and W space, K classes.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from selfexplain.experiments.reading_options import QualityOptions
from selfexplain.explanations import MapKind, find_explained_layer
from selfexplain.explanations.layout import ExplainedLayer
from selfexplain.explanations.metrics import (
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
from selfexplain.seeding import named_generator

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
    """
    found = find_explained_layer(model, x_BCHW, kind=kind, layer=layer)
    scorer = _Scorer(model, kind, found, options)
    chunks = zip(torch.split(x_BCHW, CHUNK), torch.split(classes_B, CHUNK), strict=True)
    scored = [scorer(x, y, number) for number, (x, y) in enumerate(chunks)]
    return _joined([values for values, _ in scored]), _joined([stages for _, stages in scored])


@dataclass(frozen=True, slots=True)
class _Scorer:
    """All metrics of one chunk of images; random numbers depend on the chunk's number."""

    model: nn.Module
    kind: MapKind
    layer: ExplainedLayer
    options: QualityOptions

    def __call__(
        self, x_BCHW: Tensor, classes_B: Tensor, number: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Values by metric, and rank correlations by stage."""
        map_BHW = self.maps(self.model, x_BCHW, classes_B)
        stages = cascade_correlations(
            self.model,
            x_BCHW,
            classes_B,
            self.maps,
            # Not of the chunk: one randomised network for all images.
            named_generator("randomised weights", self.options.seed),
        )
        values = {
            **self.paths(x_BCHW, map_BHW, classes_B, number),
            **self.infidelity(x_BCHW, map_BHW, classes_B, number),
            "max_sensitivity": self.sensitivity(x_BCHW, classes_B, number),
            "randomisation": torch.stack(list(stages.values())).mean(0),
        }
        return values, stages

    def maps(self, model: nn.Module, x_BCHW: Tensor, classes_B: Tensor) -> Tensor:
        """Maps at the layer's resolution."""
        return maps_of_classes(model, x_BCHW, classes_B, kind=self.kind, layer=self.layer)

    def paths(
        self, x_BCHW: Tensor, map_BHW: Tensor, classes_B: Tensor, number: int
    ) -> dict[str, Tensor]:
        """Deletion and insertion, and how much better they are than with the map shuffled."""
        control_BHW = shuffled(map_BHW, self.generator("shuffled map", number))
        steps, batch_size = self.options.steps, self.options.batch_size
        scores = {}
        for name, auc, sign in (("deletion", deletion_auc, -1), ("insertion", insertion_auc, 1)):
            mine_B, control_B = (
                auc(
                    self.model,
                    x_BCHW,
                    upsampled(maps, size_of(x_BCHW)),
                    classes_B,
                    steps=steps,
                    batch_size=batch_size,
                )
                for maps in (map_BHW, control_BHW)
            )
            scores[name], scores[f"{name}_gain"] = mine_B, sign * (mine_B - control_B)
        return scores

    def infidelity(
        self, x_BCHW: Tensor, map_BHW: Tensor, classes_B: Tensor, number: int
    ) -> dict[str, Tensor]:
        """Infidelity in squared logits, and as a share of what there is to foretell."""
        size_HW, generator = size_of(x_BCHW), self.generator("infidelity", number)
        found = infidelity(
            self.model,
            x_BCHW,
            upsampled(map_BHW, size_HW),
            classes_B,
            perturbation_for(self.kind, size_HW, generator),
            samples=self.options.samples,
            batch_size=self.options.batch_size,
        )
        return {"infidelity": found.value_B, "infidelity_share": found.share_B}

    def sensitivity(self, x_BCHW: Tensor, classes_B: Tensor, number: int) -> Tensor:
        """Max-sensitivity of the maps at the layer's resolution."""
        return max_sensitivity(
            partial(self.maps, self.model),
            x_BCHW,
            classes_B,
            generator=self.generator("sensitivity", number),
            radius=self.options.radius,
            samples=self.options.neighbours,
            batch_size=self.options.batch_size,
        )

    def generator(self, name: str, number: int) -> torch.Generator:
        """The same random numbers for every run and kind of map."""
        return named_generator(name, self.options.seed, number)


def perturbation_for(
    kind: MapKind, size_HW: tuple[int, int], generator: torch.Generator
) -> Perturbation:
    """What infidelity adds: noise for gradients, else squares of a quarter of the side."""
    if kind == "gradient":
        return gaussian_noise(NOISE, generator)
    return square_removal(max(1, min(size_HW) // 4), generator)


def shuffled(map_BHW: Tensor, generator: torch.Generator) -> Tensor:
    """Maps with the same values in another order, each image's own: the control of a path."""
    map_BP = map_BHW.flatten(1)
    order_BP = torch.rand(map_BP.shape, generator=generator).argsort(dim=1).to(map_BP.device)
    return map_BP.gather(1, order_BP).view_as(map_BHW)


def size_of(x_BCHW: Tensor) -> tuple[int, int]:
    """Height and width of images."""
    return x_BCHW.shape[2], x_BCHW.shape[3]


def _joined(chunks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The values of all chunks, on the CPU."""
    return {name: torch.cat([chunk[name].cpu() for chunk in chunks]) for name in chunks[0]}
