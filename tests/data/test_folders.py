import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfexplain.data import Batches, MemoryImages, StreamedImages, channel_statistics, load_data
from selfexplain.data.folders import read_folder
from selfexplain.data.images import to_array
from selfexplain.errors import InputError


def put(path, value=0, *, mode="L", size=(8, 6), **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **save)


def fill(folder, classes=("cat", "dog"), count=5, **options):
    for label, name in enumerate(classes):
        for number in range(count):
            put(folder / name / f"{number}.png", 10 * label + number, **options)


@pytest.fixture
def split_folder(tmp_path):
    fill(tmp_path / "train", ("dog", "cat", "ant"), 4)
    fill(tmp_path / "test", ("dog", "ant"), 2)
    return tmp_path


def test_train_and_test_folders(split_folder):
    data = load_data(f"folder:{split_folder}")
    assert data.class_names == ("ant", "cat", "dog")
    assert data.shape_CHW == (1, 6, 8)
    assert data.num_classes == 3
    assert data.train.labels_N.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.labels_N.tolist() == [0, 0, 2, 2]
    first_pixels = data.train.read(torch.arange(12))[:, 0, 0, 0].tolist()
    assert first_pixels == [20, 21, 22, 23, 10, 11, 12, 13, 0, 1, 2, 3]


@pytest.mark.parametrize(("limit", "kind"), [(2**30, MemoryImages), (0, StreamedImages)])
def test_images_are_named_by_their_files(split_folder, limit, kind):
    broken = split_folder / "train" / "cat" / "0.png"
    broken.write_bytes(b"no image")
    options = {"in_memory_limit": limit, "skip_broken": True}
    with pytest.warns(UserWarning, match="cannot be decoded"):
        images = load_data(f"folder:{split_folder}", **options).train
    assert isinstance(images, kind)
    last = images.subset(torch.tensor([10, 4]))  # behind the one that was left out
    assert last.name(0) == str(split_folder / "train" / "dog" / "3.png")
    assert last.name(1) == str(split_folder / "train" / "cat" / "1.png")


def test_images_without_names_have_none():
    images = MemoryImages(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3))
    assert images.subset(torch.tensor([1])).name(0) == ""


def test_without_a_train_folder_a_fixed_fifth_is_tested(tmp_path):
    fill(tmp_path, count=10)
    torch.manual_seed(1)
    first = load_data(f"folder:{tmp_path}")
    torch.manual_seed(2)
    again = load_data(f"folder:{tmp_path}")
    assert torch.bincount(first.train.labels_N).tolist() == [8, 8]
    assert torch.bincount(first.test.labels_N).tolist() == [2, 2]
    assert torch.equal(first.test.images_NCHW, again.test.images_NCHW)
    values = [*first.train.images_NCHW[:, 0, 0, 0], *first.test.images_NCHW[:, 0, 0, 0]]
    assert sorted(map(int, values)) == list(range(20))


def told(folder, **options):
    """Load a folder; the data, and what the user was told in one line."""
    with pytest.warns(UserWarning, match="^of folder:") as caught:
        data = load_data(f"folder:{folder}", **options)
    (line,) = (str(warning.message) for warning in caught)
    assert "\n" not in line
    assert line.startswith(f"of folder:{folder}: ")
    return data, line


def test_what_is_left_out_is_counted_and_said(split_folder):
    (split_folder / "train/cat/notes.txt").write_text("no image")
    (split_folder / "train/cat/old.eps").write_text("no image")
    (split_folder / "train/cat/.hidden.png").write_text("no image")
    (split_folder / "train/.cache").mkdir()
    (split_folder / "test/list.csv").write_text("no image")
    (split_folder / "extra").mkdir()
    (split_folder / "validation").mkdir()
    data, line = told(split_folder)
    assert len(data.train) == 12
    assert "extra, validation beside train is not read" in line
    assert "2 hidden files or folders are left out, the first is" in line
    assert "2 files that do not end as images do are left out" in line
    assert f"1 file beside the folders is left out, {split_folder / 'test/list.csv'}" in line


def test_folders_of_folders_are_read_in_the_order_of_image_folder(split_folder):
    for number, name in enumerate(
        ("cat/z/1.PNG", "cat/a/b/2.png", "cat/a/9.jPeG", "cat/9.png/3.png")
    ):
        put(split_folder / "train" / name, 100 + number, quality=100)
    paths = []
    for name in ("ant", "cat", "dog"):  # what torchvision's make_dataset does
        walked = sorted(os.walk(split_folder / "train" / name, followlinks=True))
        paths += [str(Path(root, file)) for root, _, files in walked for file in sorted(files)]
    raw = read_folder(split_folder)
    assert [str(path) for path in raw.train.source.paths] == paths
    data = load_data(f"folder:{split_folder}")
    assert data.train.labels_N.tolist() == [0] * 4 + [1] * 8 + [2] * 4


def test_circles_of_links_end_and_folders_are_read_once(split_folder):
    cat = split_folder / "train/cat"
    (cat / "here").symlink_to(".")
    (cat / "up").symlink_to("..")
    (cat / "data").symlink_to(split_folder)
    (cat / "self").symlink_to("self")
    put(split_folder.parent / "elsewhere/7.png", 77)
    (cat / "other").symlink_to(split_folder.parent / "elsewhere")
    (cat / "again").symlink_to(split_folder.parent / "elsewhere")
    data, line = told(split_folder)
    assert len(data.train) == 13
    assert "4 links to folders that are read already are left out" in line


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val", "testing"])
def test_validation_stands_in_for_a_missing_test(split_folder, name):
    (split_folder / "test").rename(split_folder / name)
    if name == "testing":
        assert len(load_data(f"folder:{split_folder}").test) == 4
        return
    data, line = told(split_folder)
    assert len(data.test) == 4
    assert f"{name} is taken for the missing test" in line


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing")])
def test_splits_however_they_are_written(split_folder, names):
    for old, new in zip(("train", "test"), names, strict=True):
        (split_folder / old).rename(split_folder / new)
    data = load_data(f"folder:{split_folder}")
    assert data.class_names == ("ant", "cat", "dog")


def test_splits_without_a_train_are_no_classes(tmp_path):
    fill(tmp_path / "test")
    fill(tmp_path / "val")
    with pytest.raises(InputError, match="contains the folders test, val but no train; add train"):
        load_data(f"folder:{tmp_path}")


def test_a_class_may_be_called_like_a_split(tmp_path):
    fill(tmp_path, ("training", "yoga"))
    assert load_data(f"folder:{tmp_path}").class_names == ("training", "yoga")


ODD = [b"caf\xe9", b"caf\\xe9", b"a\nb", b"\x1b[31mred", "x\u202ey".encode(), b"l" * 255]


def test_class_folders_that_cannot_be_printed(tmp_path):
    for number, name in enumerate(ODD):
        folder = tmp_path / os.fsdecode(name)
        for image in range(5):
            put(folder / f"{image}.png", 10 * number + image)
    data, line = told(tmp_path)
    assert "class names cannot be printed as they are and are shown as" in line
    assert len(set(data.class_names)) == len(ODD)
    for name in data.class_names:
        assert name.isprintable()
        assert len(name) <= 100
        assert name.encode().decode() == name
        json.dumps(name)
    assert {"caf\\xe9", "caf\\xe9 (2)", "a\\nb", "x\\u202ey"} <= set(data.class_names)
    folder_of = {os.fsencode(name): k for k, name in enumerate(sorted(map(os.fsdecode, ODD)))}
    first = data.train.read(torch.arange(len(data.train)))[:, 0, 0, 0] // 10
    assert data.train.labels_N.tolist() == [folder_of[ODD[k]] for k in first.tolist()]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "does not exist; pass one that holds a folder for each class"),
        (lambda root: root.mkdir(), "there are no folders in"),
        (lambda root: (root / "cat").mkdir(parents=True), "there are no images in .*cat; add"),
        (lambda root: fill(root, ("cat",)), "all training images belong to one class, 'cat'"),
        (lambda root: fill(root / "train"), "a folder .*train but no .*test; add it"),
        (
            lambda root: (fill(root / "train"), fill(root / "test", ("cat", "zebra"))),
            "the classes zebra are in .*test but not in .*train",
        ),
        (
            lambda root: (fill(root / "train"), (root / "test").mkdir()),
            "there are no folders in .*test",
        ),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, prepare, message):
    prepare(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        load_data(f"folder:{tmp_path / 'data'}")


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("I;16", 1), ("RGB", 3), ("P", 3), ("RGBA", 3), ("CMYK", 3), ("LA", 3)],
)
@pytest.mark.filterwarnings("ignore:of folder")
def test_first_image_sets_the_channels(split_folder, mode, channels):
    (split_folder / "train/ant/0.png").unlink()
    first = split_folder / f"train/ant/0.{'tif' if mode == 'CMYK' else 'png'}"
    put(first, mode=mode)
    with Image.open(first) as image:
        assert image.mode == mode
    assert load_data(f"folder:{split_folder}").shape_CHW == (channels, 6, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_convert_every_image(split_folder, channels):
    put(split_folder / "train/cat/0.png", (30, 30, 30), mode="RGB")
    data = load_data(f"folder:{split_folder}", channels=channels)
    assert data.shape_CHW == data.test.shape_CHW == (channels, 6, 8)
    assert data.train.images_NCHW[4].unique().tolist() == [30]


def test_colours_of_every_mode():
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    for image in (red, red.convert("RGBA"), red.quantize(4), red.convert("CMYK")):
        assert to_array(image, 3)[:, 0, 0].tolist() == [200, 0, 0]
    half = Image.new("RGBA", (4, 4), (200, 100, 0, 0))
    assert to_array(half, 3).max() == 0  # hidden colours of transparent pixels stay hidden
    deep = Image.fromarray(np.full((4, 4), 200 * 256, np.uint16))
    assert to_array(deep, 1)[0, 0, 0] == 200
    assert to_array(Image.new("1", (4, 4), 1), 1)[0, 0, 0] == 255


def test_exif_orientation_is_honoured(tmp_path):
    fill(tmp_path / "train", size=(6, 8))
    fill(tmp_path / "test", count=1, size=(6, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the file is wide, the picture is tall
    pixels = np.zeros((6, 8), np.uint8)
    pixels[:, :4] = 255
    for split in ("train", "test"):
        path = tmp_path / split / "cat/0.jpg"
        Image.fromarray(pixels).save(path, exif=exif, quality=95)
    for limit in (2**30, 0):
        data = load_data(f"folder:{tmp_path}", in_memory_limit=limit)
        assert data.shape_CHW == (1, 8, 6)
        turned = data.train.read(torch.tensor([0]))[0, 0]
        assert turned[:3].min() > 200
        assert turned[5:].max() < 50


def break_one(folder):
    path = folder / "train/cat/1.png"
    path.write_bytes(path.read_bytes()[:45])
    return path


def test_broken_image_is_named(split_folder):
    path = break_one(split_folder)
    with pytest.raises(InputError, match=rf"image {path} cannot be decoded .*--skip-broken "):
        load_data(f"folder:{split_folder}")


@pytest.mark.parametrize("limit", [2**30, 0])
def test_broken_images_are_skipped_and_counted(split_folder, limit):
    path = break_one(split_folder)
    (split_folder / "train/ant/0.png").write_bytes(b"nothing")  # the very first image
    (split_folder / "test/dog/0.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"3 of the 16 images cannot be decoded") as caught:
        data = load_data(f"folder:{split_folder}", skip_broken=True, in_memory_limit=limit)
    assert len(caught) == 1
    assert str(split_folder / "train/ant/0.png") in str(caught[0].message)
    assert data.train.labels_N.tolist() == [0] * 3 + [1] * 3 + [2] * 4
    assert data.test.labels_N.tolist() == [0, 0, 2]
    pixels = data.train.read(torch.arange(10))[:, 0, 0, 0].tolist()
    assert pixels == [21, 22, 23, 10, 12, 13, 0, 1, 2, 3]
    assert str(path) not in str(caught[0].message)


def test_nothing_is_said_when_nothing_is_broken(split_folder, recwarn):
    load_data(f"folder:{split_folder}", skip_broken=True)
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


def test_all_broken(split_folder):
    for path in (split_folder / "test").rglob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of the 4 images of the test split can be decoded"):
        load_data(f"folder:{split_folder}", skip_broken=True)


@pytest.mark.parametrize("limit", [2**30, 0])
def test_class_whose_training_images_are_all_broken_is_named(split_folder, limit):
    def load():
        load_data(f"folder:{split_folder}", skip_broken=True, in_memory_limit=limit)

    for path in (split_folder / "train" / "cat").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(
        InputError, match="no training image of the class cat can be decoded; repair"
    ):
        load()
    for path in (split_folder / "train" / "ant").iterdir():  # one class is left
        path.write_bytes(b"nothing")
    with pytest.raises(
        InputError, match="no training image of the classes ant, cat can be decoded; repair"
    ):
        load()


def test_decompression_bomb_is_a_broken_image(split_folder, monkeypatch):
    put(split_folder / "train/dog/3.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"dog/3\.png cannot be decoded \(DecompressionBombError"):
        load_data(f"folder:{split_folder}")
    with pytest.warns(UserWarning, match=r"1 of the 16 images cannot be decoded .*dog/3\.png"):
        assert len(load_data(f"folder:{split_folder}", skip_broken=True).train) == 11


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_image_met_while_streaming_is_one_sentence(split_folder, workers):
    path = break_one(split_folder)
    data = load_data(f"folder:{split_folder}", in_memory_limit=0)
    ones_C = torch.ones(1)
    batches = Batches(data.train, batch_size=4, mean_C=ones_C, std_C=ones_C, workers=workers)
    with pytest.raises(InputError, match=rf"^the image {path} cannot be decoded .*$"):
        list(batches.epoch(0))


@pytest.mark.parametrize("limit", [2**30, 0])
@pytest.mark.parametrize("split", ["train", "test"])
def test_sizes_that_differ(split_folder, limit, split):
    put(split_folder / split / "dog/1.png", size=(9, 6))
    message = r"ant/0\.png is 6 x 8 pixels .*dog/1\.png is 6 x 9; pass --image-size \(image_size\)"
    with pytest.raises(InputError, match=message):
        load_data(f"folder:{split_folder}", in_memory_limit=limit)
    data = load_data(f"folder:{split_folder}", image_size=5, in_memory_limit=limit)
    assert data.train.read(torch.arange(len(data.train))).shape == (12, 1, 5, 5)


def test_resize_keeps_the_middle_and_averages():
    stripes = np.zeros((8, 24), np.uint8)
    stripes[:, 8:16:2] = 200  # only the middle square of 8 x 8 has stripes
    small = to_array(Image.fromarray(stripes), 1, image_size=2)
    assert small.shape == (1, 2, 2)
    assert abs(int(small.mean()) - 100) < 15  # antialiased: the mean, not one of the stripes


def test_images_beyond_the_limit_are_streamed_and_equal(split_folder):
    # 12 training images of 48 bytes are 576; the 4 test images are 192
    memory = load_data(f"folder:{split_folder}", in_memory_limit=576)
    mixed = load_data(f"folder:{split_folder}", in_memory_limit=575)
    assert isinstance(memory.train, MemoryImages)
    assert isinstance(mixed.train, StreamedImages)
    assert isinstance(mixed.test, MemoryImages)
    everything = torch.arange(12)
    assert torch.equal(memory.train.read(everything), mixed.train.read(everything))
    assert torch.equal(memory.train.labels_N, mixed.train.labels_N)
    for ours, theirs in zip(
        channel_statistics(memory.train), channel_statistics(mixed.train), strict=True
    ):
        assert torch.equal(ours, theirs)
