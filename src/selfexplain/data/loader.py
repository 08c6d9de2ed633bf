"""Training batches: the same for any number of processes, and for any epoch on its own."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from selfexplain.data.images import ImageSet, MemoryImages, to_device
from selfexplain.data.transforms import (
    Augmentation,
    alternating_flips,
    augment,
    draw,
    find_corruption,
    normalise,
)
from selfexplain.distributed import check_ranks, rank_slice
from selfexplain.errors import InputError
from selfexplain.limits import check_in_range
from selfexplain.seeding import named_generator


class Batches:
    """Batches of normalised images, one epoch after another.

    Every process follows the same order, a function of (seed, epoch), and takes its contiguous
    part of each global batch. What is done to the images is drawn for the global batch, a
    function of (seed, epoch, step). So the batches of several processes, put together, equal
    those of one bit for bit, and no epoch or step needs those before it. The noise of a corruption
    is a function of (seed, epoch, place of the image). The global random generators are never used.

    Args:
        images: The set. `MemoryImages` move to the device once, as uint8, and stay there;
            `StreamedImages` are decoded batch by batch.
        batch_size: Images of a global batch, over all processes.
        seed: Equal seeds give equal batches.
        device: Where batches are wanted.
        augmentation: What may be done to the images; None leaves them as they are.
        corruption: Name of what is done to them afterwards, before they are normalised, one of
            `CORRUPTIONS`; None for nothing.
        places_N: Place of each image in a larger set of which these are a part, so that its
            corruption is the same as in the whole, int64; None for the place in this set.
        shuffle: Whether each epoch has its own order; else the order of the set.
        balanced: Whether each epoch draws its images with replacement so that all classes are
            equally likely; an epoch then has as many images as without.
        drop_last: Whether a last, smaller batch is left out; else it is shared out as evenly as
            possible, and a process whose part is empty gets no batch for that step.
        rank: Number of this process, from 0.
        world_size: How many processes share each batch.
        workers: Processes that decode ahead, for `StreamedImages`.
        mean_C: Mean of each channel in units of [0, 1], from `channel_statistics`.
        std_C: Standard deviation of each channel in the same units.

    Raises:
        InputError: A number does not fit the others; the message says which and what to pass.

    Example:
        >>> images = MemoryImages(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10))
        >>> half_C = torch.tensor([0.5])
        >>> batches = Batches(images, batch_size=4, mean_C=half_C, std_C=half_C)
        >>> len(batches), [x_BCHW.shape[0] for x_BCHW, labels_B in batches.epoch(0)]
        (2, [4, 4])
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        augmentation: Augmentation | None = None,
        corruption: str | None = None,
        places_N: torch.Tensor | None = None,
        shuffle: bool = True,
        balanced: bool = False,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        mean_C: torch.Tensor,
        std_C: torch.Tensor,
    ) -> None:
        _check_sizes(len(images), batch_size, drop_last, workers)
        check_ranks(batch_size, rank, world_size)
        _check_statistics(images.shape_CHW[0], mean_C, std_C)
        if augmentation is not None:
            augmentation.check_fits(*images.shape_CHW[1:])
        self.device = torch.device(device)
        self.images = images.to(self.device) if isinstance(images, MemoryImages) else images
        self.labels_N = images.labels_N.to(self.device)
        self.mean_C = mean_C.to(self.device, torch.float32)
        self.std_C = std_C.to(self.device, torch.float32)
        self.batch_size, self.drop_last, self.shuffle = batch_size, drop_last, shuffle
        self.seed, self.augmentation, self.workers = seed, augmentation, workers
        self.corruption_name = corruption
        self.corruption = None if corruption is None else find_corruption(corruption)
        self.places_N = torch.arange(len(images)) if places_N is None else places_N.cpu()
        _check_places(len(images), self.places_N)
        self.rank, self.world_size = rank, world_size
        self.weights_N = balanced_weights(images.labels_N) if balanced else None

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        rest = 0 if self.drop_last else self.batch_size - 1
        return (len(self.images) + rest) // self.batch_size

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Produce the batches of one epoch, from `start_step` on.

        Args:
            epoch: Number of the epoch, from 0.
            start_step: Step to begin with, to resume within an epoch.

        Returns:
            Iterator over x_BCHW (float32, normalised, contiguous) and labels_B (int64), both on
            the device.

        Raises:
            InputError: `start_step` is not a step of the epoch.
        """
        if not 0 <= start_step <= len(self):
            raise InputError(
                f"start_step is {start_step}; pass a number from 0 to {len(self)}, "
                "the number of steps of an epoch"
            )
        return ((x_BCHW, y_B) for x_BCHW, y_B, _ in self._produce(epoch, start_step))

    def indexed_epoch(
        self, epoch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Produce the batches of one epoch with index_B (int64), each image's place in the set.

        Example:
            >>> images = MemoryImages(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
            >>> half_C = torch.tensor([0.5])
            >>> batches = Batches(images, batch_size=2, shuffle=False, mean_C=half_C, std_C=half_C)
            >>> [index_B.tolist() for _, _, index_B in batches.indexed_epoch(0)]
            [[0, 1], [2, 3]]
        """
        return self._produce(epoch, 0)

    def _produce(
        self, epoch: int, start_step: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        steps = [
            (step, global_B, rank_slice(len(global_B), self.rank, self.world_size))
            for step, global_B in enumerate(torch.split(self._order(epoch), self.batch_size))
            if start_step <= step < len(self)
        ]
        steps = [(step, global_B, mine) for step, global_B, mine in steps if mine.stop > mine.start]
        indices = [global_B[mine] for _, global_B, mine in steps]
        read = self.images.stream(
            indices, workers=self.workers, pin_memory=self.device.type == "cuda"
        )
        for (step, global_B, mine), indices_B, read_BCHW in zip(steps, indices, read, strict=True):
            pixels_BCHW = read_BCHW.to(self.device, non_blocking=True)
            pixels_BCHW = self._augmented(pixels_BCHW, (epoch, step), global_B, mine)
            pixels_BCHW = self._corrupted(pixels_BCHW, epoch, indices_B)
            index_B = to_device(indices_B, self.device)
            yield normalise(pixels_BCHW, self.mean_C, self.std_C), self.labels_N[index_B], index_B

    def _order(self, epoch: int) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(len(self.images))
        generator = named_generator("order", self.seed, epoch)
        return epoch_order(len(self.images), self.weights_N, generator)

    def _augmented(
        self,
        images_BCHW: torch.Tensor,
        moment: tuple[int, int],
        global_B: torch.Tensor,
        mine: slice,
    ) -> torch.Tensor:
        """Augment this process's part of the global batch of these places at (epoch, step)."""
        if self.augmentation is None:
            return images_BCHW
        generator = named_generator("augmentation", self.seed, *moment)
        params = draw(self.augmentation, len(global_B), *self.images.shape_CHW[1:], generator)
        if self.augmentation.alternate_flip:
            flips_N = alternating_flips(len(self.images), self.seed, moment[0])
            params = replace(params, flips_B=flips_N[global_B])
        return augment(images_BCHW, params.part(mine, self.device))

    def _corrupted(
        self, images_BCHW: torch.Tensor, epoch: int, indices_B: torch.Tensor
    ) -> torch.Tensor:
        """Corrupt images, each as drawn for its place."""
        if self.corruption is None:
            return images_BCHW
        key = ("corruption", str(self.corruption_name), self.seed, epoch)
        generators = (named_generator(*key, place) for place in self.places_N[indices_B].tolist())
        drawn_BCHW = self.corruption.draw(self.images.shape_CHW, generators)
        return self.corruption.apply(images_BCHW, drawn_BCHW)


def epoch_order(
    count: int, weights_N: torch.Tensor | None, generator: torch.Generator
) -> torch.Tensor:
    """Places of `count` images in a random order, (N,); with weights, drawn with replacement."""
    if weights_N is None:
        return torch.randperm(count, generator=generator)
    return torch.multinomial(weights_N, count, replacement=True, generator=generator)


def balanced_weights(labels_N: torch.Tensor) -> torch.Tensor:
    """Probability of each image if all classes that occur are equally likely, (N,) float64."""
    labels_N = labels_N.cpu()
    counts_K = torch.bincount(labels_N)
    return 1 / (counts_K[labels_N].double() * int((counts_K > 0).sum()))


def _check_sizes(count: int, batch_size: int, drop_last: bool, workers: int) -> None:
    check_in_range("batch_size", batch_size, 1)
    check_in_range("workers", workers, 0)
    if count == 0:
        raise InputError("the image set is empty; pass at least one image")
    if drop_last and batch_size > count:
        raise InputError(
            f"batch_size is {batch_size}, but there are only {count} images and drop_last leaves "
            f"out an incomplete batch; pass a batch_size of at most {count}"
        )


def _check_places(count: int, places_N: torch.Tensor) -> None:
    if places_N.shape != (count,):
        raise InputError(
            f"places_N has shape {tuple(places_N.shape)}; pass one place for each of the {count} "
            "images"
        )


def _check_statistics(channels: int, mean_C: torch.Tensor, std_C: torch.Tensor) -> None:
    if mean_C.shape != (channels,) or std_C.shape != (channels,):
        raise InputError(
            f"mean_C has shape {tuple(mean_C.shape)} and std_C {tuple(std_C.shape)}; "
            f"pass one value for each of the {channels} channels"
        )


# Stratified choices of images: every class keeps its share.


def hold_out(
    labels_N: torch.Tensor, fraction: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split images into a part to train on and a part to hold out.

    Args:
        labels_N: Class number of each image.
        fraction: Share of the images to hold out; round(fraction * N) are, though never none
            and never all. Where the numbers allow, each class has an image in both parts.
        seed: Equal seeds give equal splits.

    Returns:
        Train indices and held-out indices, int64, each sorted.

    Raises:
        InputError: `fraction` is not between 0 and 1, or there are fewer than two images.

    Example:
        >>> hold_out(torch.tensor([0, 1, 0, 1]), 0.5, seed=0)[1].shape
        torch.Size([2])
    """
    count = len(labels_N)
    if not 0 < fraction < 1:
        raise InputError(f"the fraction to hold out is {fraction}; pass a number between 0 and 1")
    if count < 2:
        raise InputError(f"the number of images to split is {count}; pass at least 2")
    total = min(max(1, round(fraction * count)), count - 1)
    counts_K = _class_counts(labels_N)
    spare_K = (counts_K - 1).clamp(min=0)
    high_K = spare_K if int(spare_K.sum()) >= total else counts_K
    held_out = _choose(labels_N, _shares(counts_K, total, high_K), seed)
    kept_N = torch.ones(count, dtype=torch.bool)
    kept_N[held_out] = False
    return kept_N.nonzero().flatten(), held_out


def take(labels_N: torch.Tensor, size: int, seed: int) -> torch.Tensor:
    """Choose `size` images, at least one of each class that occurs.

    Args:
        labels_N: Class number of each image.
        size: How many to choose.
        seed: Equal seeds give equal choices.

    Returns:
        (size,) int64 indices, sorted.

    Raises:
        InputError: `size` is smaller than the number of classes or larger than N.

    Example:
        >>> take(torch.tensor([0, 1, 0, 1]), 4, seed=0)
        tensor([0, 1, 2, 3])
    """
    counts_K = _class_counts(labels_N)
    classes, count = int((counts_K > 0).sum()), len(labels_N)
    if not classes <= size <= count:
        raise InputError(
            f"{size} images were requested; pass a size from {classes} (one for each class) to "
            f"{count} (all images)"
        )
    return _choose(labels_N, _shares(counts_K, size, counts_K), seed)


def _class_counts(labels_N: torch.Tensor) -> torch.Tensor:
    return torch.bincount(labels_N.cpu())


def _shares(counts_K: torch.Tensor, total: int, high_K: torch.Tensor) -> torch.Tensor:
    """Divide `total` in proportion to `counts_K`, within the bounds.

    Starts from the floor of each exact share and hands out what is left where the gap is widest.
    """
    low_K = high_K.clamp(max=1)
    if int(low_K.sum()) > total:
        low_K = torch.zeros_like(low_K)
    exact_K = counts_K.double() * total / counts_K.sum()
    shares_K = exact_K.floor().long().clamp(low_K, high_K)
    while (missing := total - int(shares_K.sum())) != 0:
        step = 1 if missing > 0 else -1
        movable_K = shares_K < high_K if missing > 0 else shares_K > low_K
        gap_K = ((exact_K - shares_K) * step).masked_fill(~movable_K, -torch.inf)
        shares_K[gap_K.argmax()] += step
    return shares_K


def _choose(labels_N: torch.Tensor, shares_K: torch.Tensor, seed: int) -> torch.Tensor:
    """Choose the first `shares_K[k]` images of class k in one random order of all images."""
    order_N = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(seed))
    shuffled_N = labels_N.cpu()[order_N]
    chosen = [order_N[shuffled_N == label][:share] for label, share in enumerate(shares_K.tolist())]
    return torch.cat(chosen).sort().values
