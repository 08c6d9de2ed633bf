"""From the values of a label column to class numbers and class names."""

from collections.abc import Sequence
from typing import Any

import torch

from selfexplain.errors import InputError


def class_names_of(train_values: Sequence[Any]) -> tuple[str, ...]:
    """Name the classes of labels that bring no names.

    Args:
        train_values: The training labels: whole numbers from 0, or strings.

    Returns:
        "0", "1", ... up to the largest number, or the strings in alphabetical order.

    Raises:
        InputError: A number is as large as the number of images, so it cannot be a class number.

    Example:
        >>> class_names_of(["dog", "cat", "dog"]), class_names_of([0, 2, 1])
        (('cat', 'dog'), ('0', '1', '2'))
    """
    if any(isinstance(value, str) for value in train_values):
        return tuple(sorted({value for value in train_values if isinstance(value, str)}))
    numbers = [value if isinstance(value, int) else -1 for value in train_values]
    largest = max(0, *numbers)
    if largest >= len(numbers):
        raise InputError(
            f"label {largest} in train row {numbers.index(largest)} is no class number, for there "
            f"are {len(numbers)} images only; number the classes from 0"
        )
    return tuple(map(str, range(largest + 1)))


def class_numbers(
    values: Sequence[Any], class_names: Sequence[str], split: str, *, as_names: bool
) -> torch.Tensor:
    """Turn the labels of one split into class numbers.

    Args:
        values: Whole numbers, or strings.
        class_names: The name of class k at place k.
        split: Name of the split, for messages.
        as_names: Whether the labels are written as names; else as numbers.

    Returns:
        (N,) int64 class numbers.

    Raises:
        InputError: A label is missing, or is none of the classes.

    Example:
        >>> class_numbers(["dog", "cat"], ("cat", "dog"), "test", as_names=True)
        tensor([1, 0])
    """
    allowed = list(class_names) if as_names else list(range(len(class_names)))
    number_of = {value: number for number, value in enumerate(allowed)}
    for row, value in enumerate(values):
        if value is None:
            raise InputError(f"{split} row {row} has no label; label it or remove the row")
        if value not in number_of:
            kind = "names" if as_names else "numbers"
            raise InputError(
                f"label {value!r} in {split} row {row} is none of the {len(allowed)} class {kind} "
                f"{abridged(allowed)}; correct it, remove the row or pass another --label-column "
                "(label_column)"
            )
    return torch.tensor([number_of[value] for value in values], dtype=torch.int64)


def check_several(labels_N: torch.Tensor, class_names: Sequence[str]) -> None:
    """Raise InputError if all training images are of one class.

    Example:
        >>> check_several(torch.tensor([0, 1]), ("cat", "dog"))
    """
    present = sorted(set(labels_N.tolist()))
    if len(present) < 2:
        raise InputError(
            f"all training images are of the one class '{class_names[present[0]]}'; "
            "pass data of at least two classes"
        )


def abridged(values: list[Any]) -> str:
    """List values in a message, the first three and the last of many.

    Example:
        >>> abridged(["cat", "dog"]), abridged(list(range(100)))
        ('cat, dog', '0, 1, 2, ..., 99')
    """
    shown = values if len(values) <= 6 else [*values[:3], "...", values[-1]]
    return ", ".join(map(str, shown))
