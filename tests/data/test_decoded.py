"""Decoded images in a folder: decoded once, decoded anew when they or their files change."""

import hashlib
import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfexplain.data import ImageData, StreamedImages, datasets, load_data
from selfexplain.data.datasets import read_digits
from selfexplain.data.decoded import decoded_once
from selfexplain.experiments.compare.compare import run_comparison
from selfexplain.experiments.compare.grid import shared_images
from selfexplain.experiments.options import (
    CompareConfig,
    DataOptions,
    DeviceOptions,
    SweepOptions,
)
from selfexplain.training import TrainingOptions

SIDE = 8


def fill(folder: Path, count: int = 8) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, count, SIDE, SIDE, 3), np.uint8)
    for label in range(2):
        (folder / f"class{label}").mkdir(parents=True)
        for number, image in enumerate(pixels[label]):
            Image.fromarray(image).save(folder / f"class{label}" / f"{number}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    fill(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    import datasets as hf

    folder = tmp_path / "table"
    folder.mkdir()
    fill(tmp_path / "images")
    paths = sorted((tmp_path / "images").rglob("*.png"))
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    labels = [int(path.parent.name[-1]) for path in paths]
    split = hf.Dataset.from_dict({"image": cells, "label": labels})
    split = split.cast_column("image", hf.Image())
    split.to_parquet(folder / "train-0.parquet")
    split.select(range(2, 12)).to_parquet(folder / "test-0.parquet")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that were decoded in this process, the first image of a set apart."""
    rows: list[int] = []
    decode = datasets.decode

    def counted(source, row, *more):
        rows.append(row)
        return decode(source, row, *more)

    monkeypatch.setattr(datasets, "decode", counted)
    return rows


def assert_same(one: ImageData, other: ImageData) -> None:
    for mine, yours in ((one.train, other.train), (one.test, other.test)):
        everything = torch.arange(len(mine))
        assert torch.equal(mine.read(everything), yours.read(everything))
        assert torch.equal(mine.labels_N, yours.labels_N)
        told = [[images.name(i) for i in range(len(images))] for images in (mine, yours)]
        assert all(told[0])
        assert told[0] == told[1]
    assert (one.class_names, one.ranges) == (other.class_names, other.ranges)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_the_second_call_decodes_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, decoded: list[int]
) -> None:
    place = request.getfixturevalue({"folder": "photos", "parquet": "table"}[kind])
    spec = f"{kind}:{place}"
    plain = load_data(spec)
    decoded.clear()
    first = load_data(spec, kept_in=tmp_path / "kept")
    assert len(decoded) == len(plain.train) + len(plain.test)
    decoded.clear()
    second = load_data(spec, kept_in=tmp_path / "kept")
    assert decoded == []
    assert_same(plain, first)
    assert_same(plain, second)
    second.train.images_NCHW.zero_()  # a process that writes to its images changes them for nobody
    assert_same(plain, load_data(spec, kept_in=tmp_path / "kept"))


def test_other_options_are_other_images(photos: Path, tmp_path: Path, decoded: list[int]) -> None:
    kept, spec = tmp_path / "kept", f"folder:{photos}"
    load_data(spec, kept_in=kept)
    for options in ({"channels": 1}, {"image_size": 4}):
        decoded.clear()
        data = load_data(spec, kept_in=kept, **options)
        assert decoded
        assert_same(data, load_data(spec, **options))


def test_changed_files_are_decoded_anew(photos: Path, tmp_path: Path) -> None:
    kept, spec = tmp_path / "kept", f"folder:{photos}"
    before = load_data(spec, kept_in=kept)
    path = photos / "class0" / "0.png"
    Image.fromarray(np.full((SIDE, SIDE, 3), 255, np.uint8)).save(path)
    after = load_data(spec, kept_in=kept)
    assert_same(after, load_data(spec))
    assert sum(map(int, [before.train.images_NCHW.sum(), before.test.images_NCHW.sum()])) != sum(
        map(int, [after.train.images_NCHW.sum(), after.test.images_NCHW.sum()])
    )
    path.rename(photos / "class1" / "new.png")  # the same images, another label
    assert_same(load_data(spec, kept_in=kept), load_data(spec))


@pytest.mark.parametrize("what", ["byte", "length", "record", "labels", "gone"])
def test_damage_is_told_and_decoded_anew(photos: Path, tmp_path: Path, what: str) -> None:
    kept, spec = tmp_path / "kept", f"folder:{photos}"
    plain = load_data(spec, kept_in=kept)
    [pixels], [record] = kept.glob("*-train.uint8"), kept.glob("*.json")
    content = pixels.read_bytes()
    if what == "byte":
        pixels.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif what == "length":
        pixels.write_bytes(content[:-1])
    elif what == "gone":
        pixels.unlink()
    elif what == "record":
        record.write_text("{")
    else:
        told = json.loads(record.read_text())
        told["train"]["labels"][0] ^= 1
        record.write_text(json.dumps(told))
    with pytest.warns(UserWarning, match="are damaged .* and are decoded anew"):
        again = load_data(spec, kept_in=kept)
    assert_same(plain, again)
    assert_same(plain, load_data(spec, kept_in=kept))  # without a warning: it was mended


def test_warnings_are_given_again(photos: Path, tmp_path: Path) -> None:
    (photos / "class0" / "0.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 of the 16 images cannot be decoded"):
            data = load_data(f"folder:{photos}", kept_in=tmp_path / "kept", skip_broken=True)
        assert len(data.train) + len(data.test) == 15
        for images in (data.train, data.test):  # each file is still that of its label
            labels = [int(Path(images.name(i)).parent.name[-1]) for i in range(len(images))]
            assert labels == images.labels_N.tolist()


def test_what_does_not_fit_into_memory_is_not_even_hashed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfexplain.data.decoded.encoded_digest", lambda source: 1 / 0)
    spec, kept = f"folder:{photos}", tmp_path / "kept"
    data = load_data(spec, kept_in=kept, in_memory_limit=100)
    assert isinstance(data.train, StreamedImages)
    assert not kept.exists()


def test_a_folder_that_cannot_be_used_costs_a_warning(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be kept in .*file"):
        data = load_data(f"folder:{photos}", kept_in=tmp_path / "file")
    assert_same(data, load_data(f"folder:{photos}"))


def test_who_comes_at_the_same_time_waits(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    counted = datasets.decode

    def slow(source, row, *more):
        time.sleep(0.01)
        return counted(source, row, *more)

    monkeypatch.setattr(datasets, "decode", slow)
    found: list[ImageData] = []

    def come() -> None:
        found.append(load_data(f"folder:{photos}", kept_in=tmp_path / "kept"))

    threads = [threading.Thread(target=come) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 16
    assert_same(*found)


def test_workers_share_what_the_command_decoded(photos: Path, tmp_path: Path) -> None:
    """Two workers train on what lies in the folder, here black images in place of the real ones."""
    kept, out = tmp_path / "kept", tmp_path / "run"
    load_data(f"folder:{photos}", kept_in=kept)
    [record] = kept.glob("*.json")
    told = json.loads(record.read_text())
    black = bytes(3 * SIDE * SIDE * told["train"]["shape"][0])
    [pixels] = kept.glob("*-train.uint8")
    pixels.write_bytes(black)
    told["train"]["pixels"] = hashlib.sha256(black).hexdigest()
    del told["sha256"]
    record.write_text(json.dumps(told))
    config = CompareConfig(
        data=DataOptions(data=f"folder:{photos}"),
        objectives=("standard",),
        seeds=(0, 1),
        training=TrainingOptions(epochs=1, batch_size=4),
        device=DeviceOptions(accelerator="cpu"),
        sweep=SweepOptions(workers=2, image_cache=kept),
        out=out,
    )
    run_comparison(config)
    for seed in (0, 1):
        run = json.loads((out / "runs" / f"standard-seed{seed}" / "run.json").read_text())
        assert run["images"]["mean"] == [0.0] * 3
        assert "image_cache" not in json.dumps(run)
    assert pixels.exists()


def test_the_folder_of_a_sweep_goes_when_it_is_finished(tmp_path: Path) -> None:
    sweep = SweepOptions(workers=2)
    with shared_images(sweep, tmp_path) as own:
        assert own is not None
        own.mkdir()
    assert not own.exists()
    own.mkdir()
    with suppress(KeyboardInterrupt), shared_images(sweep, tmp_path):
        raise KeyboardInterrupt
    assert own.exists()
    with shared_images(SweepOptions(), tmp_path) as none:
        assert none is None


def test_nothing_is_kept_of_arrays_which_need_no_decoding(tmp_path: Path) -> None:
    decoded = ("the data", [], [])
    assert decoded_once(read_digits(), {}, tmp_path, lambda: decoded) is decoded
    assert not list(tmp_path.iterdir())
