"""From the values of a label column to class numbers and class names."""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from selfexplain.errors import InputError

_LONGEST = 100  # characters of a class name that are shown
_JOINERS = "\u200c\u200d"  # between letters and emojis: they are part of how a name is written


def classes_of(train_values: Sequence[Any]) -> list[Any]:
    """The numbers or strings that occur in labels without names, each once and sorted.

    Raises:
        InputError: A number is negative, or as large as the number of images, so that it cannot be
            a class number.
    """
    if any(isinstance(value, str) for value in train_values):
        return sorted({value for value in train_values if isinstance(value, str)})
    numbers = [value for value in train_values if isinstance(value, int)]
    smallest, largest = min(numbers, default=0), max(numbers, default=0)
    if smallest < 0:
        raise InputError(
            f"label {smallest} in train row {train_values.index(smallest)} is negative; number the "
            "classes from 0, or remove the row"
        )
    if largest >= len(train_values):
        raise InputError(
            f"label {largest} in train row {train_values.index(largest)} is too large for a class "
            f"number, as there are only {len(train_values)} images; number the classes from 0"
        )
    return sorted(set(numbers))


def notes_on_classes(classes: Sequence[Any], labels_N: torch.Tensor, *, named: bool) -> list[str]:
    """Say what is odd about the classes: numbers that skip some, and names without images.

    Place k of `classes` is what stands for class k; `named` if the data set itself lists them.
    """
    if named:
        present = set(labels_N.tolist())
        absent = [name for k, name in enumerate(classes) if k not in present]
        if not absent:
            return []
        return [
            f"no training image is of {len(absent)} of the {len(classes)} classes: "
            f"{abridged(absent)}"
        ]
    if isinstance(classes[0], str) or list(classes) == list(range(len(classes))):
        return []
    return [
        f"its labels {abridged(list(classes))} are the {len(classes)} classes, and no number "
        "between them is one"
    ]


def printable_names(names: Iterable[str]) -> tuple[str, ...]:
    r"""Class names as they can be printed, drawn and stored anywhere: short, and no two alike.

    Bytes that are no UTF-8, control characters and marks that turn the direction of writing become
    escapes; what is longer than 100 characters is cut off.

    Example:
        >>> printable_names(["cat", "caf\udce9", "a\u202eb", "a\nb"])
        ('cat', 'caf\\xe9', 'a\\u202eb', 'a\\nb')
    """
    names = tuple(names)
    taken = {name for name in names if _printable(name) == name}
    printable = []
    for name in names:
        shown, number = _printable(name), 2
        if shown != name:
            while shown in taken:
                shown, number = f"{_printable(name)} ({number})", number + 1
            taken.add(shown)
        printable.append(shown)
    return tuple(printable)


def notes_on_names(names: Sequence[str], shown: Sequence[str]) -> list[str]:
    r"""Say which class names are not shown as they are.

    Example:
        >>> notes_on_names(["a\nb", "c"], ["a\\nb", "c"])
        ['1 class name cannot be printed as it is and is shown as a\\nb']
    """
    changed = [new for old, new in zip(names, shown, strict=True) if old != new]
    if not changed:
        return []
    one = len(changed) == 1
    return [
        f"{len(changed)} class name{'' if one else 's'} cannot be printed as "
        f"{'it is and is' if one else 'they are and are'} shown as {abridged(changed)}"
    ]


def _printable(name: str) -> str:
    text = "".join(map(_escaped, name))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python hands on a byte that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    hidden = unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return ascii(letter)[1:-1] if hidden and letter not in _JOINERS else letter


def class_numbers(values: Sequence[Any], classes: Sequence[Any], split: str) -> torch.Tensor:
    """Turn the labels of one split into class numbers (N,), int64; place k of `classes` is class k.

    Raises:
        InputError: A label is missing, or is none of the classes.
    """
    number_of = {value: number for number, value in enumerate(classes)}
    kind = "names" if isinstance(classes[0], str) else "numbers"
    for row, value in enumerate(values):
        if value is None or value == "":
            raise InputError(f"{split} row {row} has no label; label it or remove the row")
        if value not in number_of:
            raise InputError(
                f"label {value!r} in {split} row {row} is not one of the {len(classes)} class "
                f"{kind} {abridged(list(classes))}; correct it, remove the row or pass another "
                "--label-column (label_column)"
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
            f"all training images belong to one class, '{class_names[present[0]]}'; "
            "pass data with at least two classes"
        )


def abridged(values: list[Any]) -> str:
    """List values in a message, the first three and the last of many.

    Example:
        >>> abridged(["cat", "dog"]), abridged(list(range(100)))
        ('cat, dog', '0, 1, 2, ..., 99')
    """
    shown = values if len(values) <= 6 else [*values[:3], "...", values[-1]]
    return ", ".join(map(str, shown))
