"""Training a head alone, on features that are computed once.

Nothing before the head learns, so that its input is the same in every epoch. It is computed of
every training image, and of its mirror image if images are mirrored; other augmentations would need
the body in every epoch and are left out.

Shape suffixes: B batch, C channels, H and W space, N training images, F features, V views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selfexplain.data import Batches
from selfexplain.data.loader import balanced_weights, epoch_order
from selfexplain.distributed import rank_slice
from selfexplain.errors import InputError
from selfexplain.evaluation import evaluating
from selfexplain.experiments.data import Prepared, images_at_once
from selfexplain.experiments.options import RunConfig
from selfexplain.explanations import capture, find_explained_layer, find_pooled_head
from selfexplain.introspection import Introspective
from selfexplain.objectives import Objective, Standard
from selfexplain.seeding import named_generator
from selfexplain.training import TrainingOptions, train
from selfexplain.training.finetune import head_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ON_FEATURES = {
    "standard",
    "label_smoothing",
    "confidence_penalty",
    "introspective",
    "own_mass",
    "zipf",
    "ols",
    "cs_kd",
    "ps_kd",
    "dlb",
}
"""Objectives that read nothing but logits and the last feature map."""


class FeatureBatches:
    """Batches of features in place of images, in the order of `Batches`.

    Args:
        features_VNFHW: of every training image, as it is and, if there are two views, mirrored;
            each image's view is drawn anew in each epoch.
        labels_N: class numbers.
        batch_size: of a global batch; all images if there are fewer.
        seed: equal seeds give equal batches.
        rank: number of this process.
        world_size: how many processes share each batch.
        balanced: as of `Batches`.

    Example:
        >>> batches = FeatureBatches(torch.rand(2, 9, 4, 1, 1), torch.arange(9), batch_size=4)
        >>> len(batches), next(batches.epoch(0))[0].shape
        (2, torch.Size([4, 4, 1, 1]))
    """

    def __init__(
        self,
        features_VNFHW: Tensor,
        labels_N: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        balanced: bool = False,
    ) -> None:
        self.features_VNFHW = features_VNFHW
        self.labels_N = labels_N.to(features_VNFHW.device)
        self.batch_size = min(batch_size, len(labels_N))
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.weights_N = balanced_weights(labels_N) if balanced else None

    def __len__(self) -> int:
        """The number of steps of an epoch."""
        return len(self.labels_N) // self.batch_size

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Features (B, F, H, W) and labels (B,) of each step."""
        return ((x_BFHW, y_B) for x_BFHW, y_B, _ in self.indexed_epoch(epoch))

    def indexed_epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The same with each image's place in the training set (B,)."""
        views, count = self.features_VNFHW.shape[:2]
        order_N = epoch_order(count, self.weights_N, named_generator("order", self.seed, epoch))
        view_N = torch.randint(
            views, (count,), generator=named_generator("views", self.seed, epoch)
        )
        for global_B in torch.split(order_N, self.batch_size)[: len(self)]:
            index_B = global_B[rank_slice(len(global_B), self.rank, self.world_size)]
            index_B, view_B = (
                values.to(self.labels_N.device) for values in (index_B, view_N[index_B])
            )
            yield self.features_VNFHW[view_B, index_B], self.labels_N[index_B], index_B


def features_and_head(
    model: nn.Module, x_BCHW: Tensor
) -> tuple[Callable[[Tensor], Tensor], nn.Linear]:
    """A function from images (B, C, H, W) to what the head reads, (B, F, H, W), and the head.

    The features are the map that is averaged into a linear head; of other models the vector that
    the last layer reads, (B, F, 1, 1). The function leaves the model's mode to the caller.

    Args:
        model: a classifier, in evaluation mode.
        x_BCHW: a few images.

    Raises:
        InputError: the last layer is not linear, or reads no vector.

    Example:
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=5, in_channels=1).eval()
        >>> features, head = features_and_head(model, torch.rand(2, 1, 8, 8))
        >>> pooled = features(torch.rand(3, 1, 8, 8)).mean((2, 3))
        >>> head(pooled).shape
        torch.Size([3, 5])
    """
    try:
        linear = find_pooled_head(model, x_BCHW).linear
    except InputError:
        return _input_of_last(model), _last_linear(model)
    layer = find_explained_layer(model, x_BCHW, kind="cam")

    def features(x_BCHW: Tensor) -> Tensor:
        with capture(model, layer) as captured:
            model(x_BCHW)
        return captured.features_BFHW.detach()

    return features, linear


def _last_linear(model: nn.Module) -> nn.Linear:
    name = head_of(model)
    last = model.get_submodule(name)
    if not isinstance(last, nn.Linear):
        raise InputError(
            f"the model's last block {name!r} is a {type(last).__name__}, and only a linear layer "
            "is trained alone; leave out --freeze all and --head-epochs"
        )
    return last


def _input_of_last(model: nn.Module) -> Callable[[Tensor], Tensor]:
    last = _last_linear(model)

    def features(x_BCHW: Tensor) -> Tensor:
        read: list[Tensor] = []
        handle = last.register_forward_pre_hook(lambda module, args: read.append(args[0].detach()))
        try:
            model(x_BCHW)
        finally:
            handle.remove()
        if len(read) != 1 or read[0].ndim != 2:
            raise InputError(
                "the model's last layer does not read one vector an image; leave out --freeze all "
                "and --head-epochs"
            )
        return read[0][..., None, None]

    return features


def head_and_batches(
    model: nn.Module, config: RunConfig, prepared: Prepared, fabric: Fabric
) -> tuple[nn.Module, FeatureBatches]:
    """A model of the head alone, which shares its weights, and its batches.

    Its logits of features are those of the whole model, in evaluation mode, of the image.
    """
    model.to(fabric.device)
    images = Batches(
        prepared.train,
        batch_size=images_at_once(prepared.train.shape_CHW),
        device=fabric.device,
        shuffle=False,
        drop_last=False,
        workers=config.data.workers,
        mean_C=prepared.mean_C,
        std_C=prepared.std_C,
    )
    views: list[list[Tensor]] = [[], []] if prepared.augmentation.flip else [[]]
    with evaluating(model), torch.no_grad():
        features, linear = features_and_head(model, next(images.epoch(0))[0][:2])
        for x_BCHW, _ in images.epoch(0):
            for view, flips in zip(views, (False, True), strict=False):
                view.append(features(x_BCHW.flip(3) if flips else x_BCHW))
    batches = FeatureBatches(
        torch.stack([torch.cat(view) for view in views]),
        prepared.train.labels_N,
        batch_size=config.training.batch_size,
        seed=config.start,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        balanced=prepared.balanced,
    )
    return nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear), batches


def train_head_first(
    model: nn.Module, config: RunConfig, prepared: Prepared, fabric: Fabric
) -> FeatureBatches:
    """Train the head alone for `head_epochs`, by cross-entropy; its log is in the folder head/.

    Returns:
        What it learned from.
    """
    head, batches = head_and_batches(model, config, prepared, fabric)
    options = config.training
    alone = replace(
        TrainingOptions(),
        epochs=options.head_epochs,
        batch_size=options.batch_size,
        optimizer=options.optimizer,
        lr=options.lr,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
    )
    train(
        Standard(head),
        batches,
        alone,
        fabric=fabric,
        folder=config.out / "head",
        seed=config.start,
    )
    model.zero_grad()
    return batches


def on_features(options: TrainingOptions) -> TrainingOptions:
    """The options of a training in which the model is its head, and there is nothing to freeze."""
    return replace(options, freeze=None, body_lr=1.0, layer_decay=1.0)


def learns_on_features(objective: Objective, spec: str) -> bool:
    """Whether an objective reads nothing of an image but its last feature map and logits.

    Example:
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=5, in_channels=1)
        >>> learns_on_features(Standard(model), "standard")
        True
    """
    if spec.partition(":")[0] not in ON_FEATURES:
        return False
    if isinstance(objective, Introspective):
        return objective.options.kind == "cam" and objective.options.layer is None
    return True


@contextmanager
def head_alone(
    objective: Objective, config: RunConfig, prepared: Prepared, fabric: Fabric
) -> Iterator[FeatureBatches]:
    """Within it the objective's model is its head alone, and batches are of features."""
    whole = objective.model
    head, batches = head_and_batches(whole, config, prepared, fabric)
    objective.replace_model(head)
    try:
        yield batches
    finally:
        objective.replace_model(whole)
