"""Hugging Face data sets and tables: their columns, their labels, their images."""

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants
from pyarrow import parquet

from selfexplain.data.decode import RawData, RawSplit, TableRows
from selfexplain.data.labels import (
    abridged,
    check_several,
    class_numbers,
    classes_of,
    notes_on_classes,
    notes_on_names,
    printable_names,
)
from selfexplain.errors import InputError

# Which column of a table holds the images, and which the labels.


Features = Mapping[str, Any]


def image_column(features: Features, named: str | None = None) -> str:
    """Find the column of images: the named one, or the only `datasets.Image`."""
    if named is not None:
        _check_exists(features, named, "image_column")
        if not _holds_images(features[named]):
            raise InputError(
                f"image_column '{named}' holds {features[named]}, which is not an image; "
                f"pass one of {_listed(features)}"
            )
        return named
    found = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"{len(found) or 'no'} columns are marked as images; "
        f"pass one of {_listed(found or features)} as --image-column (image_column)"
    )


def label_column(features: Features, named: str | None = None) -> str:
    """Find the column of labels.

    The named one, or the only candidate, or `label`, or `fine_label`. Candidates are the columns
    of type `ClassLabel`; where there are none, those of whole numbers or strings.
    """
    if named is not None:
        _check_exists(features, named, "label_column")
        if not _may_hold_labels(features[named]):
            raise InputError(
                f"label_column '{named}' holds {features[named]}, which is neither whole numbers "
                f"nor strings; pass one of {_listed(features)}"
            )
        return named
    found = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    found = found or [name for name, kind in features.items() if _may_hold_labels(kind)]
    preferred = [name for name in ("label", "fine_label") if name in found] or found
    if len(found) == 1 or preferred is not found:
        return preferred[0]
    raise InputError(
        f"{len(found) or 'no'} columns could be the labels; "
        f"pass one of {_listed(found or features)} as --label-column (label_column)"
    )


def _check_exists(features: Features, named: str, argument: str) -> None:
    if named not in features:
        raise InputError(f"{argument} '{named}' does not exist; pass one of {_listed(features)}")


def _holds_images(kind: Any) -> bool:
    if isinstance(kind, datasets.Value):
        return kind.dtype in {"binary", "large_binary"}
    return isinstance(kind, datasets.Image) or (
        isinstance(kind, dict) and set(kind) == {"bytes", "path"}
    )


def _may_hold_labels(kind: Any) -> bool:
    if isinstance(kind, datasets.Value):
        return kind.dtype in {"string", "large_string"} or kind.dtype.startswith(("int", "uint"))
    return isinstance(kind, datasets.ClassLabel)


def _listed(names: Any) -> str:
    return ", ".join(names)


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
    """The error for a split without rows."""
    return InputError(f"the {name} split is empty; pass data with at least one image in it")


def _both(splits: Mapping[str, Any]) -> tuple[Any, Any, list[str]]:
    """The two splits that are read, and notes on the others."""
    test_names = [name for name in ("test", "validation", "valid", "val") if name in splits]
    if "train" not in splits or not test_names:
        raise InputError(
            f"the data set has the splits {', '.join(splits)}; "
            "pass one with a train split and a test or validation split"
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


# Data sets in the layout of Hugging Face: Parquet files in a folder, or a name on the hub.


def parquet_files(folder: Path) -> dict[str, list[str]]:
    """The Parquet files of train and test (or validation), in `folder` or `folder`/data."""
    if not folder.is_dir():
        raise InputError(
            f"the folder {folder} does not exist; pass the folder that holds train-*.parquet"
        )
    places = [place for place in (folder, folder / "data") if any(place.glob("train-*.parquet"))]
    if not places:
        raise InputError(
            f"there is no train-*.parquet in {folder} or {folder / 'data'}; "
            "pass the folder that holds it"
        )
    train, test, validation = (
        sorted(str(path) for pattern in patterns for path in places[0].glob(pattern))
        for patterns in (
            ("train-*.parquet",),
            ("test-*.parquet",),
            ("valid*.parquet", "val-*.parquet", "dev-*.parquet"),
        )
    )
    if not (test or validation):
        raise InputError(
            f"there is neither test-*.parquet nor validation-*.parquet in {places[0]}; add one"
        )
    found = {"train": train, "test": test or validation}
    for path in [*train, *found["test"]]:
        if not Path(path).is_file():  # a named pipe would be waited for
            raise InputError(f"{path} is not a regular file; pass a folder of Parquet files")
    return found


def _notes(folder: Path, found: dict[str, list[str]]) -> list[str]:
    """What lies in the folder and is not read, and what stands in for the test split."""
    read = [Path(path) for paths in found.values() for path in paths]
    places = (folder, folder / "data")
    unread = [p for place in places for p in sorted(place.glob("*.parquet")) if p not in read]
    notes = [f"the files not read are {abridged([p.name for p in unread])}"] if unread else []
    if not read[-1].name.startswith("test"):
        notes.append("validation files are taken for the missing test files")
    return notes


def read_parquet(folder: Path, images: str | None = None, labels: str | None = None) -> RawData:
    """Open train-*.parquet and test-*.parquet in `folder`; nothing is written there.

    `datasets` keeps its copy in its own cache, which HF_DATASETS_CACHE or HF_HOME moves.
    """
    # load_dataset takes patterns: a bracket in a folder's name must not be read as one
    found = parquet_files(folder)
    files = {split: [glob.escape(path) for path in paths] for split, paths in found.items()}
    try:
        splits = datasets.load_dataset("parquet", data_files=files)
    except Exception as error:  # pyarrow, fsspec and datasets each have their own
        for split, paths in found.items():
            if _have_no_rows(paths):  # which datasets refuses, too, but not in these words
                raise empty_split(split) from error
        raise InputError(
            f"the Parquet files in {folder} cannot be read ({_reason(error)}); "
            "check them, and that HF_DATASETS_CACHE is a folder that can be written"
        ) from error
    _check_class_lists(found, label_column(splits["train"].features, labels))
    own = Path(found["train"][0]).parent
    raw = from_splits(splits, images, labels, folders=(own, folder))
    return replace(raw, notes=(*_notes(folder, found), *raw.notes))


def _check_class_lists(found: dict[str, list[str]], column: str) -> None:
    """Raise InputError if files list the classes in different orders: only one would be right."""
    paths = [path for paths in found.values() for path in paths]
    first = _class_list(paths[0], column)
    for path in paths[1:]:
        if _class_list(path, column) != first:
            raise InputError(
                f"{paths[0]} and {path} list the classes of the column '{column}' differently; "
                "rewrite them with the same list of classes"
            )


def _class_list(path: str, column: str) -> object:
    """The classes that a Parquet file lists by itself; None if it does not."""
    try:
        metadata = parquet.read_schema(path).metadata or {}
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return features[column].get("names")
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


def read_hub(name: str, images: str | None = None, labels: str | None = None) -> RawData:
    """Fetch a data set of the Hugging Face hub, or take it from the local cache."""
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # datasets, the hub client and the network libraries under it
        raise InputError(
            f"the data set '{name}' cannot be fetched from the Hugging Face hub "
            f"({_reason(error)}); check its name and the network, or pass parquet:DIR"
        ) from error
    return from_splits(splits, images, labels, folders=_folders_of(name))


def _folders_of(name: str) -> tuple[Path, ...]:
    """Where `datasets` puts the image files of a data set: its own download, or unpacked there."""
    if Path(name).is_dir():  # which `datasets` prefers to the hub
        return (Path(name),)
    own = f"datasets--{name.replace('/', '--')}"
    unpacked = Path(datasets.config.EXTRACTED_DATASETS_PATH)
    return (Path(constants.HF_HUB_CACHE) / own, unpacked)


def _have_no_rows(paths: list[str]) -> bool:
    """Whether Parquet files can be read and hold no row."""
    try:
        return not any(parquet.read_metadata(path).num_rows for path in paths)
    except Exception:  # damaged files are spoken of otherwise
        return False


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
