"""`--data package.module:Name`: data sets of the user's own code."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.command_line import refused

from selfexplain.cli import main
from selfexplain.data import load_data
from selfexplain.data.datasets import check_spec
from selfexplain.errors import InputError

MODULE = """
import numpy as np, torch
from PIL import Image

class Items:
    def __init__(self, items, **more):
        self.items = items
        vars(self).update(more)
    def __len__(self):
        return len(self.items)
    def __getitem__(self, row):
        return self.items[row]

def grey(row):
    return np.full((8, 8), 20 * row, dtype=np.uint8)

def arrays():
    return Items([(grey(i), i % 2) for i in range(10)]), Items([(grey(i), i % 2) for i in (1, 4)])

def pictures():
    pictures = [Image.fromarray(grey(i)).convert("RGB") for i in range(10)]
    items = [(picture, ["dog", "cat"][i % 2]) for i, picture in enumerate(pictures)]
    return Items(items), items[:4]

class Unread(Items):
    def __getitem__(self, row):
        if row == "label":
            raise AssertionError
        return super().__getitem__(row)

def tensors():
    labels = torch.arange(10) % 3
    items = [(torch.from_numpy(grey(i)), None) for i in range(10)]
    return (Items(items, targets=labels, classes=["a", "b\\n", "c", "d"]),
            Items(items[:3], targets=labels[:3]))

number = 3
def one(): return Items([])
def three(): return 1, 2, 3
def needs(path): return path
def floats(): return [(np.zeros((8, 8)), i % 2) for i in range(9)], [(np.zeros((8, 8)), 0)]
def words(): return [("a.png", i % 2) for i in range(9)], [("b.png", 0)]
def single(): return [grey(i) for i in range(9)], [grey(0)]
def halves(): return [(grey(i), i / 2) for i in range(9)], [(grey(0), 0)]
def strange(): return [(grey(i), i % 2) for i in range(9)], [(grey(0), 7)]
def alike(): return [(grey(i), 0) for i in range(9)], [(grey(0), 0)]
def raises(): raise RuntimeError("the disk is gone")
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "owndata.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("owndata", None)


def test_arrays_are_read() -> None:
    data = load_data("owndata:arrays")
    assert data.class_names == ("0", "1")
    assert data.shape_CHW == (1, 8, 8)
    assert data.train.labels_N.tolist() == [0, 1] * 5
    pixels_NCHW = data.train.read(torch.arange(10))
    assert [int(image.max()) for image in pixels_NCHW] == [20 * row for row in range(10)]
    assert data.test.labels_N.tolist() == [1, 0]
    assert load_data("owndata:arrays", image_size=4).shape_CHW == (1, 4, 4)


def test_pictures_and_names_of_classes_are_read_twice_alike() -> None:
    one, two = (load_data("owndata:pictures", channels=3) for _ in range(2))
    assert one.class_names == ("cat", "dog")
    assert one.train.labels_N.tolist() == [1, 0] * 5
    assert one.shape_CHW == (3, 8, 8)
    rows = torch.arange(10)
    assert torch.equal(one.train.read(rows), two.train.read(rows))


def test_targets_spare_reading_and_classes_name() -> None:
    with pytest.warns(UserWarning, match="cannot be printed"):
        data = load_data("owndata:tensors")
    assert data.class_names == ("a", "b\\n", "c", "d")
    assert data.train.labels_N.tolist() == [0, 1, 2] * 3 + [0]


def test_too_large_for_memory_is_decoded_on_demand() -> None:
    data = load_data("owndata:arrays", in_memory_limit=10)
    inside = load_data("owndata:arrays")
    rows = torch.tensor([7, 2, 2])
    assert torch.equal(data.train.read(rows), inside.train.read(rows))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("owndata:absent", "cannot be imported (module owndata has no absent)"),
        ("foldr:pets", "cannot be imported (No module named 'foldr'); pass digits, parquet:DIR"),
        ("owndata:number", "is a int; pass package.module:Name, a function or a class"),
        ("owndata:needs", "could not be made (needs() missing 1 required"),
        ("owndata:raises", "could not be made (the disk is gone)"),
        ("owndata:one", "returned a Items; return (train, test)"),
        ("owndata:three", "returned 3 of int; return (train, test)"),
        ("owndata:floats", "image 0 of train is a float64 (8, 8); return a PIL image"),
        ("owndata:words", "image 0 of train is a str; return a PIL image"),
        ("owndata:single", "item 0 of train cannot be had as image and label"),
        ("owndata:halves", "a label of train is '0.0'; pass class numbers, or names"),
        ("owndata:strange", "label 7 in test row 0 is not one of the 2 class numbers"),
        ("owndata:alike", "all training images belong to one class"),
        ("own data:x", "is unknown; pass digits"),
        ("owndata:", "is unknown; pass digits"),
        (":x", "is unknown; pass digits"),
    ],
)
def test_what_is_no_data_set(spec: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        load_data(spec)
    assert message in str(refused.value)


def test_names_are_checked_before_anything_is_called() -> None:
    check_spec("owndata:raises")
    with pytest.raises(InputError, match="has no absent"):
        check_spec("owndata:absent")


def test_the_command_line_trains_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    words = ["--epochs", "1", "--batch-size", "5", "--objective", "standard", "--out", out]
    main(["train", "--data", "owndata:arrays", *words])
    assert f"Run: {out}" in capsys.readouterr().out
    assert "has no absent" in refused(capsys, "train", "--data", "owndata:absent", *words[:-1], "x")
    assert not Path("x").exists()


def test_pillow_images_stay_open() -> None:
    """A data set that keeps its images gets them back unharmed."""
    kept = [Image.fromarray(np.full((8, 8), 9 * row, dtype=np.uint8)) for row in range(4)]
    module = sys.modules.setdefault("owndata", __import__("owndata"))
    vars(module)["kept"] = lambda: ([(k, i % 2) for i, k in enumerate(kept)], [(kept[0], 0)])
    load_data("owndata:kept")
    assert [image.getpixel((0, 0)) for image in kept] == [0, 9, 18, 27]
