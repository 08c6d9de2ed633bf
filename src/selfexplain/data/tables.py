"""A Hugging Face data set as encoded splits: its columns found, its labels read."""

from collections.abc import Mapping
from typing import Any

import datasets

from selfexplain.data.columns import image_column, label_column
from selfexplain.data.labels import check_several, class_names_of, class_numbers
from selfexplain.data.sources import RawData, RawSplit, TableRows
from selfexplain.errors import InputError


def from_splits(
    splits: Mapping[str, Any], images: str | None = None, labels: str | None = None
) -> RawData:
    """Find the columns of a Hugging Face data set, and read the labels of both splits.

    Args:
        splits: Name to `datasets.Dataset`: train, and test or validation.
        images: Name of the image column, or None to find it.
        labels: Name of the label column, or None to find it.

    Raises:
        InputError: A split is missing or empty, a column cannot be found, or a label is wrong.

    Example:
        >>> rows = {"image": [{"bytes": b"", "path": None}] * 2, "label": ["cat", "dog"]}
        >>> split = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
        >>> from_splits({"train": split, "test": split}).class_names
        ('cat', 'dog')
    """
    train, test = _both(splits)
    images = image_column(train.features, images)
    labels = label_column(train.features, labels)
    values = {"train": _column(train, labels), "test": _column(test, labels)}
    names = getattr(train.features[labels], "names", None)
    as_names = names is None and isinstance(next(iter(values["train"])), str)
    class_names = tuple(names or class_names_of(values["train"]))
    raw_train, raw_test = (
        RawSplit(
            name=split,
            source=_images(rows, images, split),
            labels_N=class_numbers(values[split], class_names, split, as_names=as_names),
        )
        for split, rows in (("train", train), ("test", test))
    )
    check_several(raw_train.labels_N, class_names)
    return RawData(train=raw_train, test=raw_test, class_names=class_names)


def empty_split(name: str) -> InputError:
    """What is said of a split without a row.

    Example:
        >>> str(empty_split("test"))
        'the test split is empty; pass data with at least one image in it'
    """
    return InputError(f"the {name} split is empty; pass data with at least one image in it")


def _both(splits: Mapping[str, Any]) -> tuple[Any, Any]:
    test_names = [name for name in ("test", "validation", "valid", "val") if name in splits]
    if "train" not in splits or not test_names:
        raise InputError(
            f"the data set has the splits {', '.join(splits)}; "
            "pass one that has train, and test or validation"
        )
    for name in ("train", test_names[0]):
        if len(splits[name]) == 0:
            raise empty_split(name)
    return splits["train"], splits[test_names[0]]


def _images(rows: Any, column: str, split: str) -> TableRows:
    undecoded = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return TableRows(undecoded, column, split)


def _column(rows: Any, column: str) -> list[Any]:
    # In the format of Arrow a column of numbers comes whole, not value by value
    values: list[Any] = rows.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return values
