"""The images of a run, split and normalised, and a model's logits on them.

Shape suffixes: C channels, H and W space.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from selfexplain.data import (
    Augmentation,
    Batches,
    ImageData,
    ImageSet,
    channel_statistics,
    hold_out,
    load_data,
    take,
)
from selfexplain.data.decode import BrokenImageError, Files, decode_free
from selfexplain.data.images import OutgrownError, Ranges
from selfexplain.data.opening import NAMES, SUFFIXES
from selfexplain.distributed import gathered, rank, rank_slice, world_size
from selfexplain.errors import InputError, first_line
from selfexplain.evaluation import predict
from selfexplain.experiments.options import DataOptions

OWN_IMAGES = "images of its own loop"
"""What a record calls data that were given as images, and not by the name of a data set."""

# From data options to the images that one seed trains on and is scored on.


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Images of one seed, and how they become batches."""

    train: ImageSet
    scored: ImageSet
    class_names: tuple[str, ...]
    mean_C: Tensor
    std_C: Tensor
    augmentation: Augmentation
    ranges: Ranges = field(default_factory=Ranges)
    balanced: bool = False

    def training_batches(
        self,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int,
        world_size: int,
        workers: int,
    ) -> Batches:
        """Shuffled, augmented batches of this process's share of the training images."""
        return Batches(
            self.train,
            batch_size=batch_size,
            seed=seed,
            device=device,
            augmentation=self.augmentation,
            balanced=self.balanced,
            rank=rank,
            world_size=world_size,
            workers=workers,
            mean_C=self.mean_C,
            std_C=self.std_C,
        )

    def scored_batches(
        self,
        *,
        device: torch.device,
        workers: int,
        only: Tensor | None = None,
        corruption: str | None = None,
    ) -> Batches:
        """The scored images, or those at the indices `only`, in order, as they are or corrupted."""
        return Batches(
            self.scored if only is None else self.scored.subset(only),
            batch_size=images_at_once(self.scored.shape_CHW),
            device=device,
            corruption=corruption,
            places_N=only,
            shuffle=False,
            drop_last=False,
            workers=workers,
            mean_C=self.mean_C,
            std_C=self.std_C,
        )


def images_at_once(shape_CHW: tuple[int, int, int], most: int = 500) -> int:
    """How many images go through a model at a time: fewer, the larger they are.

    Feature maps of many large images take gigabytes, which a CPU gets from the system anew
    with each layer.

    Example:
        >>> [images_at_once((3, side, side)) for side in (32, 128, 512)]
        [500, 31, 8]
    """
    _, height, width = shape_CHW
    return max(8, min(most, most * 32 * 32 // (height * width)))


def load(options: DataOptions, kept_in: Path | None = None) -> ImageData:
    """Load the data set that the options name.

    Args:
        options: which one, and how it is read.
        kept_in: folder for its decoded images, see `load_data`; None keeps nothing.

    Example:
        >>> load(DataOptions(data="digits")).num_classes
        10
    """
    return load_data(
        options.data,
        image_column=options.image_column,
        label_column=options.label_column,
        image_size=options.image_size,
        channels=options.channels,
        skip_broken=options.skip_broken,
        kept_in=kept_in,
    )


def side_of(shape_CHW: tuple[int, int, int]) -> int:
    """The side of square images.

    Raises:
        InputError: they are not square.

    Example:
        >>> side_of((3, 32, 32))
        32
    """
    _, height, width = shape_CHW
    if height != width:
        raise InputError(
            f"the images are {height} x {width} pixels; pass --image-size to make them square"
        )
    return height


def prepare(
    data: ImageData,
    options: DataOptions,
    seed: int,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Prepared:
    """Draw the splits of one seed.

    The held-out part is drawn first, from all training images, so that it does not depend on how
    many of the others are then trained on.

    Args:
        data: the data set.
        options: how to split and augment it.
        seed: of the splits.
        statistics: mean and standard deviation (C,) to normalise by, in units of [0, 1]; None for
            those of the images that are trained on.

    Example:
        >>> options = DataOptions(data="digits", train_size=100, validation=0.2)
        >>> prepared = prepare(load(options), options, seed=0)
        >>> len(prepared.train), len(prepared.scored)
        (100, 288)
    """
    train, scored = data.train, data.test
    if options.validation:
        train_indices, held_out = hold_out(train.labels_N, options.validation, seed)
        train, scored = train.subset(train_indices), train.subset(held_out)
    elif options.test_size is not None:
        scored = scored.subset(take(scored.labels_N, options.test_size, seed=0))
    if options.train_size is not None:
        train = train.subset(take(train.labels_N, options.train_size, seed))
    mean_C, std_C = channel_statistics(train) if statistics is None else statistics
    return Prepared(
        train=train,
        scored=scored,
        class_names=data.class_names,
        mean_C=mean_C,
        std_C=std_C,
        augmentation=_augmentation(options, data.shape_CHW),
        ranges=data.ranges,
        balanced=options.balanced,
    )


def of_channels(
    name: str, values: Sequence[float] | None, otherwise: float, channels: int
) -> Tensor:
    """One number for each channel, (C,), of one or of C given ones, or the same for all."""
    if values is None:
        return torch.full((channels,), otherwise)
    found = torch.as_tensor(values, dtype=torch.float32).reshape(-1)
    if len(found) not in (1, channels) or not bool(found.isfinite().all()):
        raise InputError(
            f"{name} is {list(map(float, found))} for images of {channels} channel(s); pass a "
            "finite number for each"
        )
    if name == "std" and bool((found <= 0).any()):
        raise InputError(f"std is {list(map(float, found))}; pass numbers above 0")
    return found.expand(channels).clone()


def _augmentation(options: DataOptions, shape_CHW: tuple[int, int, int]) -> Augmentation:
    padding = options.crop_padding
    return Augmentation(
        crop_padding=min(shape_CHW[1:]) // 8 if padding is None else padding,
        # A mirrored digit is not a digit; most other things stay what they are.
        flip=options.data != "digits" or options.alternate_flip
        if options.flip is None
        else options.flip,
        cutout=options.cutout,
        policy=options.augment,
        alternate_flip=options.alternate_flip,
    )


def predict_together(
    model: nn.Module,
    prepared: Prepared,
    *,
    device: torch.device,
    workers: int,
    corruption: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and labels (N,) of all scored images, in their order, on the CPU.

    Each process looks at its part of the images and gets the logits of all; every one must call it,
    with the same weights and buffers in its model.

    Args:
        model: the classifier.
        prepared: its images.
        device: where they are looked at.
        workers: processes that decode images.
        corruption: name of what is done to the images; None for nothing.

    Example:
        >>> from selfexplain.models import build_model
        >>> from selfexplain.experiments.options import DataOptions
        >>> from selfexplain.experiments.data import load, prepare
        >>> options = DataOptions(data="digits", validation=0.1)
        >>> prepared = prepare(load(options), options, seed=0)
        >>> model = build_model("small_cnn", num_classes=10, in_channels=1)
        >>> logits_NK, y_N = predict_together(
        ...     model, prepared, device=torch.device("cpu"), workers=0
        ... )
        >>> logits_NK.shape, torch.equal(y_N, prepared.scored.labels_N)
        (torch.Size([144, 10]), True)
    """
    count, processes = len(prepared.scored), world_size()
    scored = partial(prepared.scored_batches, device=device, workers=workers, corruption=corruption)
    if count < processes:  # a part would be empty
        return predict(model, scored().epoch(0))
    part = torch.arange(count)[rank_slice(count, rank(), processes)]
    only = None if processes == 1 else part
    logits_NK, y_N = predict(model, scored(only=only).epoch(0))
    return gathered(logits_NK, uneven=True), gathered(y_N, uneven=True)


# Image files that are given one by one, or in folders.


def image_files(paths: Sequence[Path], most: int | None = None) -> list[Path]:
    """Image files, those below each folder in the order of their names in its place.

    Args:
        paths: of files and folders. Hidden files of folders are left out, and those that do not
            end as images do.
        most: files that there may be; None for any number.

    Raises:
        InputError: a folder holds no images, or there are too many.

    Example:
        >>> image_files([Path("a.jpg")])
        [PosixPath('a.jpg')]
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [
            each
            for each in sorted(path.rglob("*"))
            if each.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in each.relative_to(path).parts)
        ]
        if not inside:
            raise InputError(f"the folder {path} holds no images; pass one with {NAMES} files")
        found += inside
    if most is not None and len(found) > most:
        raise InputError(
            f"{len(found)} images are given; pass at most {most}, each of which takes a row of the "
            "picture"
        )
    return found


def read_images(
    paths: Sequence[Path], shape_CHW: tuple[int, int, int], ranges: Ranges | None = None
) -> Tensor:
    """Image files as uint8 (B, C, H, W), brought to the shape that the model was trained on.

    Args:
        paths: of the files.
        shape_CHW: of the images that the model was trained on.
        ranges: what their values were scaled by if they had more than 8 bits; None takes what
            each image calls for.

    Raises:
        InputError: a file is missing or cannot be decoded, or the model's images are not square
            and a file's size is not theirs.
    """
    channels, height, width = shape_CHW
    for path in paths:
        if not path.exists():
            raise InputError(f"there is no image {path}; pass image files")
    files = Files(paths)
    side = height if height == width else None
    arrays = []
    for row, path in enumerate(paths):
        try:
            pixels_CHW = decode_free(files, row, channels, side, ranges)
        except (BrokenImageError, OutgrownError) as error:  # they name what trainings alone have
            reason = error.__cause__ or error
            advice = "" if isinstance(reason, InputError) else "; pass an image file"
            raise InputError(
                f"the image {path} cannot be decoded ({first_line(reason)}){advice}"
            ) from error
        if pixels_CHW.shape != shape_CHW:
            raise InputError(
                f"the image {path} is {_size(pixels_CHW.shape)} pixels (height x width), and the "
                f"run's training images are {_size(shape_CHW)}; pass images of that size"
            )
        arrays.append(pixels_CHW)
    return torch.from_numpy(np.stack(arrays))


def _size(shape_CHW: tuple[int, ...]) -> str:
    return f"{shape_CHW[1]} x {shape_CHW[2]}"
