"""Which explanations know which classes are alike, and from when on in training?

A classifier is trained in the standard way on fine classes that belong to groups it is not told of
(CIFAR-100: 100 classes in 20 groups of 5). At a tenth, three tenths and the end of training, every
measure of similarity is asked, on held-out images, to rank the true class's group mates above the
other classes. The figure is the area under the ROC curve, averaged over images: 50 % is chance.

    python -m studies.similarity_study \
        --data parquet:DIR --group-column coarse_label --out DIR

Shape suffixes: B images, K classes.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn

from selfexplain.data import ImageData
from selfexplain.errors import exit_on_bad_input
from selfexplain.evaluation import evaluating
from selfexplain.experiments.data import Prepared, load, prepare
from selfexplain.experiments.fit.model import build_seeded
from selfexplain.experiments.options import DataOptions, DeviceOptions, TrainConfig
from selfexplain.experiments.run_dir import check_free, images_of, locked, write_run
from selfexplain.experiments.runtime import launch
from selfexplain.explanations import capture, class_maps, find_explained_layer
from selfexplain.introspection import attribution_cosine, similarity_to_true
from selfexplain.introspection.options import MapSimilarity
from selfexplain.objectives.shared.base import true_mask
from selfexplain.training import TrainingOptions, train

MAP_MEASURES: tuple[MapSimilarity, ...] = ("cosine", "votes", "attended_votes")


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityStudyConfig:
    """Ask how well each measure of similarity finds the classes of the same group."""

    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    group_column: str
    """Column with the group of each image."""
    out: Path
    """Folder for metrics.jsonl."""
    model: str = "small_cnn"
    """Name of the model."""
    early_layer: str = "block2"
    """A layer before the last, whose feature x gradient maps are asked too."""
    images: int = 500
    """Held-out images that are asked about."""
    seed: int = 0
    """Seed of weights, batches and splits."""
    training: Annotated[TrainingOptions, tyro.conf.arg(name="")] = field(
        default_factory=TrainingOptions
    )


def run_similarity_study(config: SimilarityStudyConfig) -> list[dict[str, float]]:
    """Train, and log the figures; return them for each epoch that was looked at.

    Raises:
        InputError: the folder is in use or not empty, or the data cannot be used.
    """
    check_free(config.out)
    with locked(config.out):
        return _train_and_look(config)


def _train_and_look(config: SimilarityStudyConfig) -> list[dict[str, float]]:
    data = load(config.data)
    group_K = groups_of_classes(data, config)
    prepared = prepare(data, config.data, config.seed)
    fabric = launch(DeviceOptions(), config.training)
    objective = build_seeded(
        _as_train_config(config), "standard", config.seed, data, num_images=len(prepared.train)
    )
    looks = {max(1, round(share * config.training.epochs)) for share in (0.1, 0.3, 1.0)}
    found: list[dict[str, float]] = []

    def score(model: nn.Module) -> dict[str, float]:
        found.append({})
        if len(found) in looks:
            found[-1] = figures(model, prepared, group_K, config, fabric.device)
        return found[-1]

    write_run(_as_train_config(config), images_of(prepared), fabric.device, fabric.world_size)
    train(
        objective,
        prepared.training_batches(
            batch_size=config.training.batch_size,
            seed=config.seed,
            device=fabric.device,
            rank=0,
            world_size=1,
            workers=config.data.workers,
        ),
        config.training,
        fabric=fabric,
        folder=config.out,
        seed=config.seed,
        score=score,
    )
    return [row for row in found if row]


def groups_of_classes(data: ImageData, config: SimilarityStudyConfig) -> Tensor:
    """The group of each class, (K,)."""
    grouped = load(dataclasses.replace(config.data, label_column=config.group_column))
    group_K = torch.zeros(data.num_classes, dtype=torch.int64)
    group_K[data.train.labels_N] = grouped.train.labels_N
    return group_K


def figures(
    model: nn.Module,
    prepared: Prepared,
    group_K: Tensor,
    config: SimilarityStudyConfig,
    device: torch.device,
) -> dict[str, float]:
    """Area under the ROC curve, in percent, of each measure at this moment of training."""
    images = torch.arange(min(config.images, len(prepared.scored)))
    part = prepared.scored_batches(device=device, workers=0, only=images)
    with evaluating(model):
        rows = [
            {
                name: group_auc(s_BK, y_B, group_K.to(device))
                for name, s_BK in measures(model, x_BCHW, y_B, config)
            }
            for x_BCHW, y_B in part.epoch(0)
        ]
    return {name: 100 * float(torch.cat([r[name] for r in rows]).nanmean()) for name in rows[0]}


def measures(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, config: SimilarityStudyConfig
) -> list[tuple[str, Tensor]]:
    """Name and similarity (B, K) of every measure."""
    layer = find_explained_layer(model, x_BCHW, kind="cam")
    with torch.no_grad(), capture(model, layer) as seen:
        logits_BK = model(x_BCHW)
    weight_KF = seen.weight_KF.detach()
    unseen = torch.ones_like(seen.features_BFHW)
    maps_BKHW = class_maps(model, x_BCHW, kind="cam")
    early = class_maps(model, x_BCHW, kind="feature_x_gradient", layer=config.early_layer)
    return [
        ("logits", logits_BK),
        ("head weights", attribution_cosine(unseen, weight_KF, y_B)),
        ("attribution", attribution_cosine(seen.features_BFHW, weight_KF, y_B)),
        *((f"maps, {m}", similarity_to_true(maps_BKHW, y_B, measure=m)) for m in MAP_MEASURES),
        (f"maps at {config.early_layer}, cosine", similarity_to_true(early, y_B, centre=True)),
    ]


def group_auc(s_BK: Tensor, y_B: Tensor, group_K: Tensor) -> Tensor:
    """For each image, how surely s ranks a group mate of the true class above another class: (B,).

    The area under the ROC curve over the non-true classes: the share of pairs (mate, other) that s
    puts in this order, a tie counting half. NaN for a class without mates.

    Example:
        >>> s = torch.tensor([[9.0, 3.0, 1.0, 3.0]])
        >>> group_auc(s, torch.tensor([0]), torch.tensor([0, 0, 1, 1]))
        tensor([0.7500])
    """
    is_true_BK = true_mask(s_BK, y_B)
    same_BK = group_K[y_B].unsqueeze(1) == group_K
    pair_BKK = (same_BK & ~is_true_BK).unsqueeze(2) & ~same_BK.unsqueeze(1)
    above_BKK = (s_BK.unsqueeze(2) - s_BK.unsqueeze(1)).sign() / 2 + 0.5
    return (above_BKK * pair_BKK).sum(dim=(1, 2)) / pair_BKK.sum(dim=(1, 2))


def _as_train_config(config: SimilarityStudyConfig) -> TrainConfig:
    return TrainConfig(
        data=config.data,
        out=config.out,
        model=config.model,
        training=config.training,
        objective="standard",
        seed=config.seed,
    )


if __name__ == "__main__":
    with exit_on_bad_input("similarity_study"):
        for row in run_similarity_study(tyro.cli(SimilarityStudyConfig)):
            print(row)
