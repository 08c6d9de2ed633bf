"""Data sets in the layout of Hugging Face: Parquet files in a folder, or a name on the hub."""

import glob
import json
from dataclasses import replace
from pathlib import Path

import datasets
from huggingface_hub import constants
from pyarrow import parquet

from selfexplain.data.columns import label_column
from selfexplain.data.labels import abridged
from selfexplain.data.sources import RawData
from selfexplain.data.tables import empty_split, from_splits
from selfexplain.errors import InputError


def parquet_files(folder: Path) -> dict[str, list[str]]:
    """List the Parquet files of both splits, in `folder` or in `folder`/data.

    Returns:
        {"train": [...], "test": [...]}; validation files stand in for missing test files.

    Raises:
        InputError: There is no such folder, the files of a split are missing, or one is no plain
            file.

    Example:
        >>> parquet_files(Path("/no/such/folder"))
        Traceback (most recent call last):
        ...
        selfexplain.errors.InputError: the folder /no/such/folder does not exist; pass the ...
    """
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
            raise InputError(f"{path} is no plain file; pass a folder of Parquet files")
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
    """Open the Parquet files in `folder`; nothing is written there.

    `datasets` keeps its copy in its own cache, which HF_DATASETS_CACHE or HF_HOME moves.

    Args:
        folder: Folder with train-*.parquet and test-*.parquet.
        images: Name of the image column, or None to find it.
        labels: Name of the label column, or None to find it.

    Raises:
        InputError: Something is missing or cannot be read.

    Example:
        >>> read_parquet(Path("/no/such/folder"))
        Traceback (most recent call last):
        ...
        selfexplain.errors.InputError: the folder /no/such/folder does not exist; pass the ...
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
                "write them anew with one list of classes"
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
    """Fetch a data set of the Hugging Face hub, or take it from the local cache.

    Args:
        name: Its name, for example "uoft-cs/cifar100".
        images: Name of the image column, or None to find it.
        labels: Name of the label column, or None to find it.

    Raises:
        InputError: It cannot be fetched, or something is missing in it.

    Example:
        >>> read_hub("uoft-cs/cifar100").class_names[:2]  # doctest: +SKIP
        ('apple', 'aquarium_fish')
    """
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
