"""Images in folders: one folder for each class."""

from pathlib import Path

import torch
from PIL import Image

from selfexplain.data.labels import check_several
from selfexplain.data.sources import Files, RawData, RawSplit
from selfexplain.data.splits import hold_out
from selfexplain.errors import InputError

# Fixed for good: a test split that moved with a seed would leak into training.
_TEST_FRACTION, _TEST_SEED = 0.2, 0


def read_folder(folder: Path) -> RawData:
    """List the images below `folder`; nothing is decoded.

    With a folder `train` there, the classes are its folders, and the folder `test` holds some
    or all of them, too. Without it, the classes are the folders of `folder`, and a fixed fifth
    of each class is the test split.

    Raises:
        InputError: Folders or images are missing, or the test split has a class of its own.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat", "dog"):
        ...         Path(folder, name).mkdir()
        ...         for number in range(5):
        ...             Image.new("L", (8, 8)).save(Path(folder, name, f"{number}.png"))
        ...     raw = read_folder(Path(folder))
        >>> raw.class_names, len(raw.train.source), len(raw.test.source)
        (('cat', 'dog'), 8, 2)
    """
    if not folder.is_dir():
        raise InputError(
            f"the folder {folder} does not exist; pass one that holds a folder for each class"
        )
    if (folder / "train").is_dir():
        return _with_test_folder(folder / "train", folder / "test")
    class_names = _class_folders(folder)
    paths, labels_N = _listing(folder, class_names, class_names)
    check_several(labels_N, class_names)
    train, test = hold_out(labels_N, _TEST_FRACTION, _TEST_SEED)
    return RawData(
        train=_split("train", [paths[i] for i in train.tolist()], labels_N[train]),
        test=_split("test", [paths[i] for i in test.tolist()], labels_N[test]),
        class_names=class_names,
    )


def _with_test_folder(train: Path, test: Path) -> RawData:
    if not test.is_dir():
        raise InputError(f"there is a folder {train} but no {test}; add it, or remove the level")
    class_names, test_names = _class_folders(train), _class_folders(test)
    if unknown := sorted(set(test_names) - set(class_names)):
        raise InputError(
            f"the classes {', '.join(unknown)} are in {test} but not in {train}; "
            "add training images of them, or remove them"
        )
    train_paths, train_labels_N = _listing(train, class_names, class_names)
    test_paths, test_labels_N = _listing(test, test_names, class_names)
    check_several(train_labels_N, class_names)
    return RawData(
        train=_split("train", train_paths, train_labels_N),
        test=_split("test", test_paths, test_labels_N),
        class_names=class_names,
    )


def _class_folders(folder: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and _visible(path))
    if not names:
        raise InputError(f"there are no folders in {folder}; put the images of each class into one")
    return tuple(names)


def _listing(
    folder: Path, names: tuple[str, ...], class_names: tuple[str, ...]
) -> tuple[list[Path], torch.Tensor]:
    """List the images of the classes `names`, with their places in `class_names`."""
    suffixes = Image.registered_extensions()
    paths: list[Path] = []
    labels: list[int] = []
    for name in names:
        found = sorted(
            path
            for path in (folder / name).iterdir()
            if path.suffix.lower() in suffixes and _visible(path)
        )
        if not found:
            raise InputError(f"there are no images in {folder / name}; add some or remove it")
        paths += found
        labels += [class_names.index(name)] * len(found)
    return paths, torch.tensor(labels)


def _split(name: str, paths: list[Path], labels_N: torch.Tensor) -> RawSplit:
    return RawSplit(name=name, source=Files(tuple(paths)), labels_N=labels_N)


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")
