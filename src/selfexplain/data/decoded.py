"""Decoded images in files, so that the processes of a sweep decode a data set once.

A folder holds, for each data set and way of decoding it, `KEY.json` and the pixels of both splits,
`KEY-train.uint8` and `KEY-test.uint8`, which are mapped into memory: processes on one machine share
them. KEY is a digest of the encoded images and their labels, so images that have changed are
decoded anew; the record holds digests of the pixels, so a damaged file is noticed.

Shape suffixes: N images of a split, C channels, H height, W width.
"""

import hashlib
import io
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL
import torch
from filelock import FileLock

from selfexplain.data.decode import Files, ImageSource, RawData, TableRows
from selfexplain.data.images import ImageData, MemoryImages, Ranges
from selfexplain.errors import InputError, WriteError, first_line
from selfexplain.files import atomic_file, read_json, write_record

VERSION = 1
"""Of the files, and of what decoding does: another number decodes everything anew."""

Decoded = tuple[ImageData, list[str], list[str]]
"""The data, the names of the images left out as broken, and what else there is to say."""


def decoded_once(
    raw: RawData, how: dict[str, Any], folder: Path, decode: Callable[[], Decoded]
) -> Decoded:
    """Take the decoded images from a folder; where they are not, decode them and put them there.

    Processes that come at the same time wait for the first. A folder that cannot be used costs
    time alone: a warning says so, and the images are decoded. `how` they are decoded is told in
    values for JSON.
    """
    key = _key(raw, how)
    if key is None:
        return decode()
    with _alone(folder, key):
        kept = _read(raw, folder, key)
        if kept is not None:
            return kept
        decoded = decode()
        _write(decoded, folder, key)
        return decoded


# What was decoded, and how: the name of its files.


def _key(raw: RawData, how: dict[str, Any]) -> str | None:
    """A digest of all that the decoded images depend on; None where that cannot be told."""
    splits = (raw.train, raw.test)
    encoded = [encoded_digest(split.source) for split in splits]
    if None in encoded:
        return None
    labels = [hashlib.sha256(split.labels_N.numpy().data).hexdigest() for split in splits]
    told = [VERSION, PIL.__version__, how, encoded, labels]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def encoded_digest(source: ImageSource) -> str | None:
    """SHA-256 of the names and bytes of encoded images; None if they are not files or a table."""
    if isinstance(source, Files):
        return _files_digest(source)
    if isinstance(source, TableRows) and hasattr(source.rows, "with_format"):
        return _table_digest(source)
    return None


def _files_digest(source: Files) -> str | None:
    digest = hashlib.sha256()
    for path in source.paths:
        try:
            content = path.read_bytes()
        except OSError:  # which decoding will say
            return None
        digest.update(json.dumps([str(path), len(content)]).encode())
        digest.update(content)
    return digest.hexdigest()


class _Hashed(io.RawIOBase):
    """A file that keeps the digest of what is written to it, and nothing else."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return memoryview(data).nbytes


def _table_digest(source: TableRows) -> str | None:
    """Of the image column as Arrow writes it: without a Python object for each image."""
    import pyarrow as pa  # here, for not all data are tables
    import pyarrow.compute as pc

    table = source.rows.with_format("arrow")[:]
    if pc.any(pc.is_null(pc.struct_field(table[source.column], "bytes"))).as_py():
        return None  # some lie in files beside the table
    sink = _Hashed()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), table.schema) as stream:
        stream.write_table(table)
    return sink.digest.hexdigest()


# The files of one key.


@contextmanager
def _alone(folder: Path, key: str) -> Iterator[None]:
    """Keep other processes from decoding the same images at the same time."""
    lock = FileLock(folder / f".{key}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # a file system may know no locks
        _not_kept(folder, error)
    try:
        yield
    finally:
        lock.release()


def _not_kept(folder: Path, error: Exception) -> None:
    warnings.warn(
        f"decoded images cannot be kept in {folder} ({first_line(error)}); every process decodes "
        "its own",
        stacklevel=2,
    )


def _pixels(folder: Path, key: str, split: str) -> Path:
    return folder / f"{key}-{split}.uint8"


def _write(decoded: Decoded, folder: Path, key: str) -> None:
    data, broken, notes = decoded
    splits = {"train": data.train, "test": data.test}
    if not all(isinstance(images, MemoryImages) for images in splits.values()):
        return  # in colour they are larger than they seemed
    record: dict[str, Any] = {"broken": broken, "notes": notes, "ranges": asdict(data.ranges)}
    try:
        for name, images in splits.items():
            assert isinstance(images, MemoryImages)
            pixels = images.images_NCHW.numpy().data
            with atomic_file(_pixels(folder, key, name)) as file:
                file.write(pixels)
            record[name] = {
                "shape": list(images.images_NCHW.shape),
                "labels": images.labels_N.tolist(),
                "pixels": hashlib.sha256(pixels).hexdigest(),
            }
        write_record(folder / f"{key}.json", record)
    except (WriteError, OSError) as error:
        _not_kept(folder, error)


def _read(raw: RawData, folder: Path, key: str) -> Decoded | None:
    """The decoded images of a key; None if they are not there, or damaged, which is told."""
    path = folder / f"{key}.json"
    try:
        if not path.exists():
            return None
        record = read_json(path)
        left_out = set(record["broken"])
        train, test = (
            _split(record[name], _pixels(folder, key, name), _names(split.source, left_out))
            for name, split in (("train", raw.train), ("test", raw.test))
        )
        data = ImageData(
            train=train,
            test=test,
            class_names=raw.class_names,
            ranges=Ranges(**record["ranges"]),
        )
        return data, record["broken"], record["notes"]
    except (InputError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        warnings.warn(
            f"the decoded images in {folder} are damaged ({first_line(error)}) and are decoded "
            "anew",
            stacklevel=2,
        )
        return None


def _names(source: ImageSource, left_out: set[str]) -> list[str]:
    """Of the images that could be decoded."""
    told = (source.name(row) for row in range(len(source)))
    return [name for name in told if name not in left_out]


def _split(record: dict[str, Any], path: Path, names: list[str]) -> MemoryImages:
    """One split, its pixels mapped into memory: private to this process where it writes to them."""
    count = math.prod(record["shape"])
    if path.stat().st_size != count:  # torch would make the file longer
        raise InputError(f"{path.name} has another length than was written")
    flat = torch.from_file(str(path), shared=False, size=count, dtype=torch.uint8)
    if hashlib.sha256(flat.numpy().data).hexdigest() != record["pixels"]:
        raise InputError(f"{path.name} does not match its SHA-256 digest")
    return MemoryImages(flat.reshape(record["shape"]), torch.tensor(record["labels"]), names)
