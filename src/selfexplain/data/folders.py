"""Images in folders: one folder for each class."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from selfexplain.data.decode import Files, RawData, RawSplit
from selfexplain.data.labels import check_several, notes_on_names, printable_names
from selfexplain.data.loader import hold_out
from selfexplain.data.opening import SUFFIXES
from selfexplain.errors import InputError

# Fixed for good: a test split that moved with a seed would leak into training.
_TEST_FRACTION, _TEST_SEED = 0.2, 0
# Names of split folders, in lower case; of several the first that is there is read.
_TRAIN, _TEST = ("train", "training"), ("test", "testing")
_VALIDATION = ("val", "valid", "validation", "dev")
# Why something is passed over: one of it, and several.
_HIDDEN = ("hidden file or folder", "hidden files or folders")
_LOOSE = ("file beside the folders", "files beside the folders")
_OTHER = ("file that does not end as images do", "files that do not end as images do")
_AGAIN = ("link to a folder that is read already", "links to folders that are read already")


@dataclass(slots=True)
class _LeftOut:
    """What was passed over, by reason: how often, and the first of them."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, reason: tuple[str, str], path: str) -> None:
        self.counts[reason] += 1
        self.first.setdefault(reason, path)

    def notes(self) -> list[str]:
        """One part of a sentence a reason."""
        return [
            f"1 {one} is left out, {self.first[one, several]}"
            if count == 1
            else f"{count} {several} are left out, the first is {self.first[one, several]}"
            for (one, several), count in self.counts.items()
        ]


def read_folder(folder: Path) -> RawData:
    """List the images below `folder`; nothing is decoded.

    With a folder `train` there, the classes are its folders, and the folder `test` (or, if there
    is none, `val`) holds some or all of them, too. Without it, the classes are the folders of
    `folder`, and a fixed fifth of each class is the test split. Folders within a class's are read,
    too, in the order of torchvision's `ImageFolder`. Hidden files and folders, and files that do
    not end as images do, are left out.
    """
    if not folder.is_dir():
        raise InputError(
            f"the folder {folder} does not exist; pass one that holds a folder for each class"
        )
    left_out = _LeftOut()
    folders = _folders(folder, left_out)
    splits = _split_folders(folder, folders)
    if splits is not None:
        return _with_test_folder(folder, splits, folders, left_out)
    class_names = _class_folders(folder, folders)
    paths, labels_N = _listing(folder, class_names, class_names, left_out)
    shown = printable_names(class_names)
    check_several(labels_N, shown)
    train, test = hold_out(labels_N, _TEST_FRACTION, _TEST_SEED)
    return RawData(
        train=_split("train", [paths[i] for i in train.tolist()], labels_N[train]),
        test=_split("test", [paths[i] for i in test.tolist()], labels_N[test]),
        class_names=shown,
        notes=(*notes_on_names(class_names, shown), *left_out.notes()),
    )


def _split_folders(folder: Path, folders: Sequence[str]) -> tuple[str, str] | None:
    """Names of the folders of both splits, however they are capitalised; None without a train."""
    by_role = {name.lower(): name for name in reversed(folders)} | {name: name for name in folders}
    train, tests = (
        [by_role[name] for name in names if name in by_role]
        for names in (_TRAIN, _TEST + _VALIDATION)
    )
    if "train" not in by_role and not (train and tests):
        if tests and all(name.lower() in _TEST + _VALIDATION for name in folders):
            raise InputError(
                f"{folder} contains the folders {', '.join(folders)} but no train; add train, or "
                "pass a folder that contains one folder for each class"
            )
        return None
    if not tests:
        raise InputError(
            f"there is a folder {folder / train[0]} but no {folder / 'test'}; add it, or move the "
            f"class folders up to {folder}"
        )
    return train[0], tests[0]


def _with_test_folder(
    folder: Path, splits: tuple[str, str], folders: Sequence[str], left_out: _LeftOut
) -> RawData:
    train, test = (folder / name for name in splits)
    class_names, test_names = (
        _class_folders(split, _folders(split, left_out)) for split in (train, test)
    )
    if unknown := sorted(set(test_names) - set(class_names)):
        raise InputError(
            f"the classes {', '.join(unknown)} are in {test} but not in {train}; "
            "add training images of them, or remove them"
        )
    train_paths, train_labels_N = _listing(train, class_names, class_names, left_out)
    test_paths, test_labels_N = _listing(test, test_names, class_names, left_out)
    shown = printable_names(class_names)
    check_several(train_labels_N, shown)
    unread = [name for name in folders if name not in splits]
    notes = [f"{', '.join(unread)} beside {splits[0]} is not read"] if unread else []
    if splits[1].lower() not in _TEST:
        notes.append(f"{splits[1]} is taken for the missing test")
    return RawData(
        train=_split("train", train_paths, train_labels_N),
        test=_split("test", test_paths, test_labels_N),
        class_names=shown,
        notes=(*notes, *notes_on_names(class_names, shown), *left_out.notes()),
    )


def _folders(folder: Path, left_out: _LeftOut) -> list[str]:
    """Names of the folders in `folder`, sorted; what else lies there is left out."""
    names = []
    for entry in _entries(folder):
        if entry.name.startswith("."):
            left_out.add(_HIDDEN, entry.path)
        elif _is_folder(entry):
            names.append(entry.name)
        else:
            left_out.add(_LOOSE, entry.path)
    return names


def _class_folders(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise InputError(
            f"there are no folders in {folder}; put the images of each class into a folder of its "
            "own"
        )
    return tuple(names)


def _listing(
    folder: Path, names: Sequence[str], class_names: Sequence[str], left_out: _LeftOut
) -> tuple[list[Path], torch.Tensor]:
    """List the images of the classes `names`, with their places in `class_names`."""
    paths: list[Path] = []
    labels: list[int] = []
    for name in names:
        found = _images_below(folder / name, left_out)
        if not found:
            raise InputError(
                f"there are no images in {folder / name}; add some, or remove the folder"
            )
        paths += found
        labels += [class_names.index(name)] * len(found)
    return paths, torch.tensor(labels)


def _images_below(folder: Path, left_out: _LeftOut) -> list[Path]:
    """The images in a folder and all those within it, by folder and then by name.

    Links are followed, as `ImageFolder` does, but no folder is read twice, nor one that `folder`
    lies in: links may form circles.
    """
    found: list[tuple[str, str]] = []
    known = {_identity(parent) for parent in folder.resolve().parents}
    inner, linked = [str(folder)], list[str]()
    while inner or linked:
        place = inner.pop() if inner else linked.pop(0)
        if (identity := _identity(Path(place))) in known:
            left_out.add(_AGAIN, place)
            continue
        known.add(identity)
        for entry in _entries(place):
            if entry.name.startswith("."):
                left_out.add(_HIDDEN, entry.path)
            elif _is_folder(entry):
                (linked if entry.is_symlink() else inner).append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 - as above
                found.append((place, entry.name))
            else:
                left_out.add(_OTHER, entry.path)
    return [Path(place, name) for place, name in sorted(found)]


def _identity(folder: Path) -> tuple[int, int]:
    """What identifies a folder, whatever the path to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be read ({error.strerror}); make it readable, or remove it"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _split(name: str, paths: list[Path], labels_N: torch.Tensor) -> RawSplit:
    return RawSplit(name=name, source=Files(tuple(paths)), labels_N=labels_N)
