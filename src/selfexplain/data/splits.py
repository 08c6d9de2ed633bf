"""Stratified choices of images: every class keeps its share."""

import torch

from selfexplain.errors import InputError


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
        raise InputError(f"{count} images cannot be split; pass at least 2")
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
            f"{size} images were asked for; pass a size from {classes} (one for each class) "
            f"to {count} (all there are)"
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
