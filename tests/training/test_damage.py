"""Damage is noticed before what is damaged is used, and a full disk costs nothing that was kept."""

import errno
import fcntl
import json
import os
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.serialization import get_crc32_options, set_crc32_options

from selfexplain.errors import InputError, WriteError
from selfexplain.files import (
    DIGEST,
    _Watched,
    atomic_file,
    clear_leftovers,
    digest_of,
    no_room_said,
    read_json,
    read_tensors,
    write_json,
    write_record,
    write_tensors,
)
from selfexplain.training.checkpoint import epochs_kept, load_checkpoint, save_checkpoint
from selfexplain.training.log import EpochLog

STATE = {
    "epochs_done": 3,
    "identity": '{"seed": 0}',
    "objective": {f"w{i}": torch.arange(20.0) + i for i in range(6)},
}


def with_a_bit_flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return a == b


def write_checkpoint(path: Path) -> None:
    save_checkpoint(path, STATE)


def write_weights(path: Path) -> None:
    write_tensors(path, STATE["objective"])  # type: ignore[arg-type]


def write_run(path: Path) -> None:
    images = {"mean": [0.25, 0.5], "std": [1.0, 0.1], "class_names": ["cat", "caf\udce9"]}
    write_record(path, {"config": {"model": "small_cnn", "out": Path("a")}, "images": images})


@pytest.mark.parametrize(
    ("write", "read"),
    [(write_checkpoint, load_checkpoint), (write_weights, read_tensors), (write_run, read_json)],
)
def test_no_flipped_bit_gives_other_weights(
    write: Callable[[Path], None], read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    write(path)
    content, whole = path.read_bytes(), read(path)
    name = content.find(DIGEST.encode())  # a damaged one is a file of an older version
    told = []
    for bit in random.Random(0).sample(range(8 * len(content)), 300):
        if read is read_json and bit // 8 in range(name, name + len(DIGEST)):
            continue
        path.write_bytes(with_a_bit_flipped(content, bit))
        try:
            assert same(read(path), whole), f"bit {bit} was not noticed"
        except InputError as error:
            told.append(str(error))
    assert len(told) > 100  # the others are padding, dates, or the digest's own name
    assert not [said for said in told if "\n" in said]


def test_a_checkpoint_holds_checksums_whatever_the_program_has_set(tmp_path: Path) -> None:
    set_crc32_options(False)
    try:
        save_checkpoint(tmp_path / "a.pt", STATE)
        assert not get_crc32_options()
    finally:
        set_crc32_options(True)
    assert same(load_checkpoint(tmp_path / "a.pt"), STATE)


def test_a_record_changed_by_hand_needs_no_digest(tmp_path: Path) -> None:
    """Nor does one of an older version; in another layout its digest is the same."""
    path = tmp_path / "run.json"
    write_run(path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(record.items()))))
    assert read_json(path).keys() == {"images", "config"}
    record["images"]["mean"][0] = 0.26
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run\.json is damaged.*or delete its line sha256"):
        read_json(path)
    del record[DIGEST]
    path.write_text(json.dumps(record))
    assert read_json(path)["images"]["mean"] == [0.26, 0.5]


def test_a_digest_does_not_depend_on_order_or_place(tmp_path: Path) -> None:
    tensors = {
        "a": torch.ones(2, 3),
        "b": torch.tensor(True),
        "c": torch.empty(0, dtype=torch.int8),
    }
    turned = {name: tensors[name] for name in reversed(tensors)}
    assert digest_of(tensors) == digest_of(turned)
    assert digest_of(tensors | {"a": tensors["a"].T.contiguous().T}) == digest_of(tensors)
    for other in (torch.ones(3, 2), torch.ones(2, 3, dtype=torch.float16), torch.zeros(2, 3)):
        assert digest_of(tensors | {"a": other}) != digest_of(tensors)


def test_files_without_a_digest_are_read(tmp_path: Path) -> None:
    """As older versions wrote them; a digest from elsewhere holds for them too."""
    path = tmp_path / "old.safetensors"
    save_file({"a": torch.ones(2)}, path)
    assert same(read_tensors(path), load_file(path))
    assert read_tensors(path, digest=digest_of({"a": torch.ones(2)}))
    with pytest.raises(InputError, match=r"old\.safetensors cannot be read .*damaged.*delete it"):
        read_tensors(path, digest=digest_of({"a": torch.zeros(2)}))


@contextmanager
def disk_full_at(number: int, kind: int = errno.ENOSPC) -> Iterator[list[int]]:
    """The write of this number, counted from 1, and all later ones fail."""
    writes, real = [0], _Watched.write

    def write(self: _Watched, data: bytes) -> int | None:
        writes[0] += 1
        if writes[0] >= number:
            self.error = OSError(kind, os.strerror(kind))
            raise self.error
        return real(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Watched, "write", write)
        yield writes


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_a_checkpoint_that_finds_no_room_says_so_and_keeps_the_old_one(
    kind: int, tmp_path: Path
) -> None:
    """PyTorch itself says "unexpected pos 128 vs 0"."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"epochs_done": 2})
    state = {name: torch.zeros(5000) for name in "abc"}
    with disk_full_at(10**6) as writes:
        save_checkpoint(tmp_path / "other.pt", state)
    assert writes[0] > 4
    for number in range(1, writes[0] + 1):
        with disk_full_at(number, kind), pytest.raises(WriteError) as told:
            save_checkpoint(path, state)
        assert f"checkpoint.pt cannot be written ({os.strerror(kind)})" in str(told.value)
        assert epochs_kept(path) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "other.pt"]


def test_a_real_limit_is_told_the_same_way(tmp_path: Path) -> None:
    path, log = tmp_path / "checkpoint.pt", EpochLog(tmp_path)
    save_checkpoint(path, {"epochs_done": 2})
    log.write({"epoch": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = path.stat().st_size + 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(WriteError, match=r"checkpoint\.pt .*File too large.*ulimit -f"):
            save_checkpoint(path, {"weights": torch.zeros(10_000)})
        with pytest.raises(WriteError, match=r"metrics\.jsonl .*File too large"):
            log.write({"epoch": 2, "told": "x" * limit})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert epochs_kept(path) == 2
    log.write({"epoch": 2})  # no half line is in its way
    assert log.read() == [{"epoch": 1}, {"epoch": 2}]


def test_a_place_that_takes_no_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.json", tmp_path / ("x" * 300), tmp_path):
        with pytest.raises(WriteError, match="cannot be written"):
            write_json(path, {})
    said = r"/data/a\.png cannot be read or written \(Permission"
    with pytest.raises(WriteError, match=said), no_room_said():
        raise PermissionError(errno.EACCES, "Permission denied", "/data/a.png")
    with pytest.raises(FileNotFoundError), no_room_said():  # is no matter of disks
        raise FileNotFoundError(errno.ENOENT, "No such file", "a")


def test_names_as_long_as_the_system_allows_are_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    write_json(path, {})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_killed_writers_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    nested = tmp_path / "album"
    nested.mkdir()
    dead = [tmp_path / ".checkpoint.pt.4711.partial", nested / ".epoch-0001.safetensors.1.partial"]
    kept = [tmp_path / ".lock", tmp_path / "a.partial", tmp_path / ".mine.partial"]
    # The process of this number is alive, but nobody writes the file: numbers come again.
    dead.append(tmp_path / f".run.json.{os.getppid()}.partial")
    for path in (*dead, *kept):
        path.write_bytes(b"half")
    live = tmp_path / ".result.json.99.partial"
    with live.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clear_leftovers(tmp_path)
        assert live.exists()
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in kept)
    clear_leftovers(tmp_path)
    assert not live.exists()


def test_a_file_that_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    left = [tmp_path / ".a.json.1.partial", tmp_path / ".b.json.1.partial"]
    for partial in left:
        partial.write_bytes(b"half")
    with atomic_file(path) as file:
        clear_leftovers(tmp_path, "a.json")
        file.write(b"{}")
    assert path.read_bytes() == b"{}"
    assert [partial.exists() for partial in left] == [False, True]  # that of its own name alone
