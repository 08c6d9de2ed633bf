"""Where images, labels and indices are in a batch of another library's loader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from selfexplain.errors import InputError

IMAGES = ("pixel_values", "image", "images", "img", "x", "inputs")
LABELS = ("labels", "label", "label_ids", "targets", "target", "y")
INDICES = ("index", "indices", "idx")


@dataclass(frozen=True, slots=True)
class Batch:
    """Images (B, C, H, W); labels (B,) or (B, K) and places in the training set (B,), if any."""

    x_BCHW: Tensor
    y_B: Tensor | None = None
    index_B: Tensor | None = None

    def arguments(self, *, indices: bool) -> tuple[Tensor, ...]:
        """What an objective is called with: images, labels and, if it wants them, indices.

        Raises:
            InputError: the batch has no labels, or none of the wanted indices.
        """
        if self.y_B is None:
            raise InputError("a loss needs labels; pass a data set whose batches have them")
        if not indices:
            return self.x_BCHW, self.y_B
        if self.index_B is None:
            raise InputError(
                "this objective needs each image's place in the training set; pass batches with a "
                f"third item, or dictionaries with {INDICES[0]!r}"
            )
        return self.x_BCHW, self.y_B, self.index_B


def read_batch(batch: Any, labels: Sequence[str] = LABELS) -> Batch:
    """Read images, labels and indices from a dictionary, a sequence in that order, or a tensor.

    Args:
        batch: of a loader. Further items are not looked at.
        labels: names that labels may have in a dictionary, the first one found is taken.

    Raises:
        InputError: there are no images.

    Example:
        >>> import torch
        >>> read_batch({"image": torch.zeros(2, 1, 4, 4), "label": torch.tensor([0, 1])}).y_B
        tensor([0, 1])
        >>> read_batch([torch.zeros(2, 1, 4, 4)]).y_B is None
        True
    """
    if isinstance(batch, Tensor):
        return Batch(batch)
    images: Tensor | None = None
    y_B: Tensor | None = None
    index_B: Tensor | None = None
    if isinstance(batch, Mapping):
        images, y_B, index_B = (_first(batch, names) for names in (IMAGES, labels, INDICES))
    elif isinstance(batch, (tuple, list)):
        first = [each if isinstance(each, Tensor) else None for each in batch[:3]]
        images, y_B, index_B = [*first, None, None, None][:3]
    if images is None:
        what = (
            f"the keys {', '.join(map(str, batch))}"
            if isinstance(batch, Mapping)
            else "no images first"
        )
        raise InputError(
            f"the batch is a {type(batch).__name__} with {what}; pass images and labels in this "
            f"order, or a dictionary with {IMAGES[0]!r} (or {', '.join(IMAGES[1:3])}) and "
            f"{LABELS[0]!r} (or {LABELS[1]})"
        )
    return Batch(images, y_B, index_B)


def _first(batch: Mapping[Any, Any], names: Sequence[str]) -> Tensor | None:
    """The first tensor of one of these names."""
    return next((batch[n] for n in names if isinstance(batch.get(n), Tensor)), None)
