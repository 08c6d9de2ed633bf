"""What a run's model says of a few images after each epoch, and of the classes at the end.

For the report: a run's folder gets `album/images.safetensors`, then `album/epoch-0001.safetensors`
and so on, and at the end `similarity.safetensors`. The training is the same with and without, and
goes on if a page cannot be made: a warning says why.

Shape suffixes: B images, C channels, H and W space, K classes, R the true class and its rivals.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from selfexplain.data import ImageSet, normalise
from selfexplain.errors import InputError, first_line
from selfexplain.experiments.data import Prepared, images_at_once
from selfexplain.experiments.fit.findings import Findings, are_photographs, write_mislabels
from selfexplain.explanations import MapKind, class_maps
from selfexplain.explanations.hooks import preserved
from selfexplain.files import write_tensors
from selfexplain.introspection import Introspective
from selfexplain.objectives import Objective
from selfexplain.objectives.shared.base import Wrapper

IMAGES = 6
"""How many images the snapshots show."""
RIVALS = 3
"""How many classes are shown beside the true one."""
MOST_SCORED = 2000
"""So many scored images tell which classes look alike."""
MOST_GRADIENTS = 20_000
"""At most so many images times classes, where maps take a backward pass for each class."""
KINDS: tuple[MapKind, ...] = ("cam", "grad_cam")
"""Kinds of map that are tried on a model that does not explain itself in training."""


class SnapshotWriter:
    """The pages of one run.

    Args:
        folder: of the run.
        prepared: its images.
        device: where its model is.

    Example:
        >>> import tempfile
        >>> from selfexplain.models import build_model
        >>> from selfexplain.objectives import Standard
        >>> from selfexplain.experiments.options import DataOptions
        >>> from selfexplain.experiments.data import load, prepare
        >>> options, folder = DataOptions(data="digits"), Path(tempfile.mkdtemp())
        >>> prepared = prepare(load(options), options, seed=0)
        >>> snapshots = SnapshotWriter(folder, prepared, torch.device("cpu"))
        >>> objective = Standard(build_model("small_cnn", num_classes=10, in_channels=1))
        >>> snapshots.add(objective, 1, objective.model)
        >>> [path.name for path in (folder / "album").iterdir()]
        ['epoch-0001.safetensors']
    """

    def __init__(self, folder: Path, prepared: Prepared, device: torch.device) -> None:
        self.folder, self.prepared, self.device = folder, prepared, device
        self.shown = shown_images(prepared.scored)

    def write_images(self) -> None:
        """Write the images that are shown, and their labels."""
        images_BCHW = self.prepared.scored.read(self.shown)
        page = {"images": images_BCHW, "labels": self.prepared.scored.labels_N[self.shown]}
        write_tensors(self.folder / "album" / "images.safetensors", page)

    def add(self, objective: Objective, epoch: int, model: nn.Module) -> None:
        """Write the page of an epoch, counted from 1.

        Args:
            objective: that is trained.
            epoch: that is over.
            model: whose scores count: the objective's, or an average of it.
        """
        with only_warned(f"the pictures of epoch {epoch}"):
            x_BCHW, y_B = self.read(self.shown)
            explained = explain(objective, model, x_BCHW, y_B)
            write_tensors(self.folder / "album" / f"epoch-{epoch:04d}.safetensors", explained)

    def finish(
        self, objective: Objective, model: nn.Module, logits_NK: Tensor, labels_N: Tensor
    ) -> None:
        """Write what the model says at the end: similar classes, and findings on photographs.

        Args:
            objective: that was trained.
            model: whose scores count.
            logits_NK: of the scored images.
            labels_N: their classes.
        """
        with only_warned("the table of similar classes"):
            write_tensors(
                self.folder / "similarity.safetensors", self._similarity(objective, model)
            )
        if not are_photographs(self.prepared.scored.shape_CHW):
            return
        x_BCHW, _ = self.read(self.shown[:1])
        logits_NK, labels_N = logits_NK.float().cpu(), labels_N.cpu()
        with only_warned("what the model gets wrong"):
            options = introspective_of(objective, model, x_BCHW).options
            findings = Findings(self.folder, self.prepared.scored, self.read, model, options)
            for write in (
                partial(findings.write_mistakes, logits_NK, labels_N),
                partial(findings.write_confused, logits_NK, labels_N),
                partial(findings.write_shortcuts, logits_NK),
            ):
                with only_warned("part of what the model gets wrong"):
                    write()

    def doubt_labels(self, features_NFHW: Tensor) -> None:
        """Write which labels of the training photographs are doubted by heads on their features.

        Args:
            features_NFHW: of every training image, before anything but a head has learned.
        """
        if are_photographs(self.prepared.train.shape_CHW):
            with only_warned("the doubted labels"):
                write_mislabels(
                    self.folder,
                    self.prepared.train,
                    features_NFHW.mean(dim=(2, 3)),
                    len(self.prepared.class_names),
                )

    def _similarity(self, objective: Objective, model: nn.Module) -> dict[str, Tensor]:
        labels_N, classes = self.prepared.scored.labels_N, len(self.prepared.class_names)
        x_BCHW, _ = self.read(self.shown[:1])
        reader = introspective_of(objective, model, x_BCHW)
        most = MOST_SCORED if reader.options.kind == "cam" else max(1, MOST_GRADIENTS // classes)
        # Spread evenly, as the images may be sorted by class.
        shown = torch.linspace(0, len(labels_N) - 1, min(most, len(labels_N))).round().long()
        targets_BK = [
            soft_target(reader, model, *self.read(part_B)).cpu()
            for part_B in torch.split(shown, images_at_once(self.prepared.scored.shape_CHW, 250))
        ]
        similarity_KK, count_K = class_means(torch.cat(targets_BK), labels_N[shown], classes)
        return {"similarity": similarity_KK, "count": count_K}

    def read(self, shown_B: Tensor) -> tuple[Tensor, Tensor]:
        """Images as the model takes them, and their labels, on the device."""
        images_BCHW = self.prepared.scored.read(shown_B).cpu()
        x_BCHW = normalise(images_BCHW, self.prepared.mean_C, self.prepared.std_C)
        return x_BCHW.to(self.device), self.prepared.scored.labels_N[shown_B].to(self.device)


def shown_images(scored: ImageSet, count: int = IMAGES) -> Tensor:
    """Places of the first image of classes that are evenly spread over the class numbers.

    Example:
        >>> from selfexplain.data import MemoryImages
        >>> labels = torch.tensor([2, 0, 2, 1, 3])
        >>> shown_images(MemoryImages(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), labels), 2)
        tensor([1, 4])
    """
    present = torch.unique(scored.labels_N)
    places = torch.linspace(0, len(present) - 1, min(count, len(present))).round().long()
    firsts = [int((scored.labels_N == y).nonzero()[0]) for y in present[places].tolist()]
    return torch.tensor(firsts)


def open_snapshots(
    folder: Path, prepared: Prepared, device: torch.device, objective: Objective
) -> SnapshotWriter | None:
    """The snapshots of a run; None if no kind of map can be read from its model.

    Example:
        >>> from selfexplain.objectives import Standard
        >>> from selfexplain.experiments.options import DataOptions
        >>> from selfexplain.experiments.data import load, prepare
        >>> options = DataOptions(data="digits")
        >>> unexplained = Standard(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        >>> prepared = prepare(load(options), options, seed=0)
        >>> open_snapshots(Path("run"), prepared, torch.device("cpu"), unexplained) is None
        True
    """
    # The model is not moved to its device yet.
    parameter = next(objective.model.parameters(), None)
    before = SnapshotWriter(
        folder, prepared, torch.device("cpu") if parameter is None else parameter.device
    )
    x_BCHW, y_B = before.read(before.shown[:1])
    try:
        # By a reader of its own, so that the objective finds its layer in training as ever.
        reader = introspective_of(objective, objective.model, x_BCHW, always_new=True)
        explain(reader, objective.model, x_BCHW, y_B)
    except InputError:
        return None
    snapshots = SnapshotWriter(folder, prepared, device)
    with only_warned("the images of the snapshots"):
        snapshots.write_images()
    return snapshots


@contextmanager
def only_warned(what: str) -> Iterator[None]:
    """Let a record for the report fail, with a warning that says why: no training hangs on it.

    Example:
        >>> with warnings.catch_warnings(record=True, action="always") as heard:
        ...     with only_warned("the table"):
        ...         raise InputError("the disk is full")
        >>> str(heard[0].message)
        'the table will be missing from the report: the disk is full'
    """
    try:
        yield
    except Exception as error:
        reason = first_line(error)
        warnings.warn(f"{what} will be missing from the report: {reason}", stacklevel=3)


def explain(
    objective: Objective, model: nn.Module, x_BCHW: Tensor, y_B: Tensor
) -> dict[str, Tensor]:
    """Probabilities, soft target and similarities (B, K), classes (B, R), maps (B, R, H, W).

    The first of an image's classes is the true one, the second the predicted one if that is
    another; the other rivals follow, the likest first.
    """
    with preserved(model, x_BCHW, eval_mode=True), torch.no_grad():
        introspective = introspective_of(objective, model, x_BCHW)
        p_BK = model(x_BCHW).softmax(dim=1)
        similarity_BK = introspective.similarity(x_BCHW, y_B).float()
        target_BK = introspective.target_of(similarity_BK, y_B).float()
        ranked_BK = target_BK.scatter(1, p_BK.argmax(dim=1)[:, None], 2.0)
        ranked_BK = ranked_BK.scatter(1, y_B[:, None], 3.0).argsort(dim=1, descending=True)
        classes_BR = ranked_BK[:, : RIVALS + 1]
        options = introspective.options
        maps_BKHW = class_maps(model, x_BCHW, kind=options.kind, layer=options.layer)
    return {
        # The report takes files with values that are not finite for damaged.
        **({"similarity": similarity_BK} if bool(similarity_BK.isfinite().all()) else {}),
        "probabilities": p_BK.float(),
        "target": target_BK,
        "classes": classes_BR,
        "maps": maps_BKHW.take_along_dim(classes_BR[:, :, None, None], dim=1).float(),
    }


def soft_target(reader: Introspective, model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
    """The soft target (B, K) that the model's explanations give images of known classes."""
    with preserved(model, x_BCHW, eval_mode=True):
        return reader.soft_target(x_BCHW, y_B).float()


def introspective_of(
    objective: Objective, model: nn.Module, x_BCHW: Tensor, *, always_new: bool = False
) -> Introspective:
    """What reads a model's explanations: the objective, or one made for another objective's model.

    Args:
        objective: that is trained, whatever it is wrapped in.
        model: whose explanations are read.
        x_BCHW: images, to try kinds of map on.
        always_new: make one in any case, and leave the objective alone.

    Raises:
        InputError: no kind of map can be read from the model.
    """
    while isinstance(objective, Wrapper):
        objective = objective.objective
    if isinstance(objective, Introspective):
        if objective.model is model and not always_new:
            return objective
        reader = Introspective(model, **asdict(objective.options))
        reader.class_mean, reader.steps = objective.class_mean, objective.steps
        return reader
    for kind in KINDS:
        try:
            with preserved(model, x_BCHW, eval_mode=True):
                class_maps(model, x_BCHW[:1], kind=kind)
        except InputError as error:
            reason = error
        else:
            return Introspective(model, kind=kind, form="mixed")
    raise reason


def class_means(target_BK: Tensor, y_B: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mean soft target (K, K) of the images of each class, zeros where there are none; and counts.

    Example:
        >>> class_means(torch.tensor([[0.0, 1.0], [0.0, 0.5]]), torch.tensor([0, 0]), 2)
        (tensor([[0.0000, 0.7500],
                [0.0000, 0.0000]]), tensor([2, 0]))
    """
    count_K = torch.bincount(y_B, minlength=classes)
    sums_KK = torch.zeros(classes, classes).index_add_(0, y_B, target_BK)
    return sums_KK / count_K.clamp_min(1)[:, None], count_K
