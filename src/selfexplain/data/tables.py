"""A Hugging Face data set as encoded splits: its columns found, its labels read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from selfexplain.data.columns import image_column, label_column
from selfexplain.data.labels import (
    abridged,
    check_several,
    class_numbers,
    classes_of,
    notes_on_classes,
    notes_on_names,
    printable_names,
)
from selfexplain.data.sources import RawData, RawSplit, TableRows
from selfexplain.errors import InputError


def from_splits(
    splits: Mapping[str, Any],
    images: str | None = None,
    labels: str | None = None,
    folders: Sequence[Path] = (),
) -> RawData:
    """Find the columns of a Hugging Face data set, and read the labels of both splits.

    Args:
        splits: Name to `datasets.Dataset`: train, and test or validation.
        images: Name of the image column, or None to find it.
        labels: Name of the label column, or None to find it.
        folders: Where image files may lie that cells name; see `TableRows`.

    Raises:
        InputError: A split is missing or empty, a column cannot be found, or a label is wrong.

    Example:
        >>> rows = {"image": [{"bytes": b"", "path": None}] * 2, "label": ["cat", "dog"]}
        >>> split = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
        >>> from_splits({"train": split, "test": split}).class_names
        ('cat', 'dog')
    """
    train, test, notes = _both(splits)
    images = image_column(train.features, images)
    labels = label_column(train.features, labels)
    values = {"train": _column(train, labels), "test": _column(test, labels)}
    names = getattr(train.features[labels], "names", None)
    # A data set that lists its classes stores numbers; other labels stand for themselves.
    classes: Sequence[Any] = range(len(names)) if names else classes_of(values["train"])
    raw_train, raw_test = (
        RawSplit(
            name=split,
            source=_images(rows, images, split, folders),
            labels_N=class_numbers(values[split], classes, split),
        )
        for split, rows in (("train", train), ("test", test))
    )
    own_names = names or [str(value) for value in classes]
    class_names = printable_names(own_names)
    check_several(raw_train.labels_N, class_names)
    listed = class_names if names else classes
    notes += notes_on_classes(listed, raw_train.labels_N, named=bool(names))
    notes += notes_on_names(own_names, class_names)
    notes += _unread_columns(train, images, labels)
    return RawData(train=raw_train, test=raw_test, class_names=class_names, notes=tuple(notes))


def _unread_columns(rows: Any, images: str, labels: str) -> list[str]:
    unread = [name for name in rows.features if name not in {images, labels}]
    return [f"the columns not read are {abridged(unread)}"] if unread else []


def empty_split(name: str) -> InputError:
    """What is said of a split without a row.

    Example:
        >>> str(empty_split("test"))
        'the test split is empty; pass data with at least one image in it'
    """
    return InputError(f"the {name} split is empty; pass data with at least one image in it")


def _both(splits: Mapping[str, Any]) -> tuple[Any, Any, list[str]]:
    """The two splits that are read, and what is to be said of the others."""
    test_names = [name for name in ("test", "validation", "valid", "val") if name in splits]
    if "train" not in splits or not test_names:
        raise InputError(
            f"the data set has the splits {', '.join(splits)}; "
            "pass one that has train, and test or validation"
        )
    read = ("train", test_names[0])
    for name in read:
        if len(splits[name]) == 0:
            raise empty_split(name)
    unread = [f"{name} ({len(rows)} rows)" for name, rows in splits.items() if name not in read]
    notes = [] if read[1] == "test" else [f"the split {read[1]} is taken for the missing test"]
    notes += [f"the splits not read are {', '.join(unread)}"] if unread else []
    return splits["train"], splits[read[1]], notes


def _images(rows: Any, column: str, split: str, folders: Sequence[Path]) -> TableRows:
    undecoded = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return TableRows(undecoded, column, split, folders)


def _column(rows: Any, column: str) -> list[Any]:
    # In the format of Arrow a column of numbers comes whole, not value by value
    values: list[Any] = rows.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return values
