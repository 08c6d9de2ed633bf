"""One call from the name of a data set to its images."""

import warnings
from pathlib import Path

from selfexplain.data.build import Building, image_data
from selfexplain.data.digits import read_digits
from selfexplain.data.folders import read_folder
from selfexplain.data.images import ImageData
from selfexplain.data.sources import RawData
from selfexplain.errors import InputError


def load_data(
    spec: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    skip_broken: bool = False,
    in_memory_limit: int = 2 * 2**30,
) -> ImageData:
    """Load a data set of labelled images.

    Args:
        spec: `digits`; `parquet:DIR` with train-*.parquet and test-*.parquet (or validation-*);
            `hub:NAME` of the Hugging Face hub; `folder:DIR` with a folder for each class, in
            DIR/train and DIR/test, or in DIR, of which a fixed fifth is then the test split.
        image_column: Image column of a table; None finds it by its type.
        label_column: Label column of a table; None finds it by its type.
        image_size: Side in pixels of the square cut from the middle of each image, resized;
            None keeps the size, which all images must then share.
        channels: 1 (grey) or 3 (RGB); None for grey if all images are grey, and else RGB.
        skip_broken: Whether images that cannot be decoded are left out, with a warning. For sets
            that do not fit into memory this decodes every image once before training.
        in_memory_limit: Bytes; a split that is larger once decoded is decoded on demand.

    Raises:
        InputError: The data cannot be used; the message says why and what to pass.

    Example:
        >>> data = load_data("digits", image_size=16)
        >>> len(data.train), len(data.test), data.shape_CHW, data.num_classes
        (1438, 359, (1, 16, 16), 10)
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size is {image_size}; pass a number of pixels of at least 1")
    if channels not in (None, 1, 3):
        raise InputError(f"channels is {channels}; pass 1 for grey or 3 for RGB")
    raw = _read(spec, image_column, label_column)
    building = Building(
        channels=channels,
        image_size=image_size,
        skip_broken=skip_broken,
        in_memory_limit=in_memory_limit,
    )
    data, broken, notes = image_data(raw, building)
    if broken:
        warnings.warn(
            f"{len(broken)} of the {len(raw.train.source) + len(raw.test.source)} images cannot be "
            f"decoded and are left out; the first is {broken[0]}",
            stacklevel=2,
        )
    if told := [*raw.notes, *notes]:
        warnings.warn(f"of {spec}: {'; '.join(told)}", stacklevel=2)
    return data


def check_spec(spec: str) -> None:
    """Raise InputError for data of no known kind, or in a folder that is not there.

    It reads nothing, so that a slip is told before anything that takes long.

    Example:
        >>> check_spec("digits")
    """
    scheme, _, place = spec.partition(":")
    if spec != "digits" and not (place and scheme in {"parquet", "hub", "folder"}):
        raise InputError(
            f"the data '{spec}' is unknown; pass digits, parquet:DIR, hub:NAME or folder:DIR"
        )
    if scheme in {"parquet", "folder"} and not _is_folder(place):
        holds = {
            "folder": "one that holds a folder for each class",
            "parquet": "the folder that holds train-*.parquet",
        }[scheme]
        raise InputError(f"the folder {place} does not exist; pass {holds}")


def _is_folder(place: str) -> bool:
    try:
        return Path(place).expanduser().is_dir()
    except (OSError, RuntimeError):  # too long a name, or the home of nobody
        return False


def _read(spec: str, image_column: str | None, label_column: str | None) -> RawData:
    check_spec(spec)
    scheme, _, place = spec.partition(":")
    if place and scheme in {"parquet", "hub"}:
        from selfexplain.data import table_readers  # here, for `datasets` takes a second to import

        if scheme == "hub":
            return table_readers.read_hub(place, image_column, label_column)
        return table_readers.read_parquet(Path(place).expanduser(), image_column, label_column)
    if image_column is not None or label_column is not None:
        raise InputError(
            "--image-column and --label-column (image_column, label_column) are for parquet: and "
            f"hub: only; leave them out for '{spec}'"
        )
    if place and scheme == "folder":
        return read_folder(Path(place).expanduser())
    return read_digits()
