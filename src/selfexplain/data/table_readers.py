"""Data sets in the layout of Hugging Face: Parquet files in a folder, or a name on the hub."""

import glob
from pathlib import Path

import datasets
from pyarrow import parquet

from selfexplain.data.sources import RawData
from selfexplain.data.tables import empty_split, from_splits
from selfexplain.errors import InputError


def parquet_files(folder: Path) -> dict[str, list[str]]:
    """List the Parquet files of both splits, in `folder` or in `folder`/data.

    Returns:
        {"train": [...], "test": [...]}; validation files stand in for missing test files.

    Raises:
        InputError: There is no such folder, or the files of a split are missing.

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
        sorted(str(path) for path in places[0].glob(pattern))
        for pattern in ("train-*.parquet", "test-*.parquet", "valid*.parquet")
    )
    if not (test or validation):
        raise InputError(
            f"there is neither test-*.parquet nor validation-*.parquet in {places[0]}; add one"
        )
    return {"train": train, "test": test or validation}


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
    return from_splits(splits, images, labels)


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
    return from_splits(splits, images, labels)


def _have_no_rows(paths: list[str]) -> bool:
    """Whether Parquet files can be read and hold no row."""
    try:
        return not any(parquet.read_metadata(path).num_rows for path in paths)
    except Exception:  # damaged files are spoken of otherwise
        return False


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
