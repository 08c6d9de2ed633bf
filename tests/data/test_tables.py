import io

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from selfexplain.data import StreamedImages, load_data
from selfexplain.errors import InputError

CAT_DOG = datasets.ClassLabel(names=["cat", "dog"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))


def png(value, *, mode="L", size=(6, 5)):
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, "PNG")
    return buffer.getvalue()


def table(labels, *, kind=CAT_DOG, label="label", image="image", images=None, **more):
    """Make a split whose image i is of grey level i; `more` columns are (type, values)."""
    images = images or [png(row) for row in range(len(labels))]
    cells = [None if data is None else {"bytes": data, "path": None} for data in images]
    columns = {image: cells, label: labels}
    types = {image: datasets.Image(), label: kind}
    for name, (other_kind, values) in more.items():
        columns[name], types[name] = values, other_kind
    return datasets.Dataset.from_dict(columns, features=datasets.Features(types))


def write(folder, train, test, test_name="test"):
    folder.mkdir(parents=True, exist_ok=True)
    half = len(train) // 2
    train.select(range(half)).to_parquet(str(folder / "train-00000-of-00002.parquet"))
    train.select(range(half, len(train))).to_parquet(str(folder / "train-00001-of-00002.parquet"))
    test.to_parquet(str(folder / f"{test_name}-00000-of-00001.parquet"))
    return f"parquet:{folder}"


def hub(monkeypatch, **splits):
    """Let the hub answer with `splits`."""
    asked = []

    def load_dataset(name):
        asked.append(name)
        return datasets.DatasetDict(splits)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def first_pixels(images):
    return images.read(torch.arange(len(images)))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("place", [".", "data", "odd [1] name"])
@pytest.mark.parametrize("test_name", ["test", "validation", "valid"])
@pytest.mark.filterwarnings("ignore:of (hub|parquet):")
def test_parquet_files(tmp_path, place, test_name):
    folder = tmp_path / place
    write(folder, table([0, 1, 1, 0, 1]), table([1, 0]), test_name)
    before = sorted(tmp_path.rglob("*"))
    data = load_data(f"parquet:{tmp_path if place == 'data' else folder}")
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written there
    assert data.class_names == ("cat", "dog")
    assert data.shape_CHW == (1, 5, 6)
    assert data.train.labels_N.tolist() == [0, 1, 1, 0, 1]
    assert data.train.labels_N.dtype == torch.int64
    assert first_pixels(data.train) == [0, 1, 2, 3, 4]
    assert (first_pixels(data.test), data.test.labels_N.tolist()) == ([0, 1], [1, 0])


def test_test_files_come_before_validation_files(tmp_path):
    spec = write(tmp_path, table([0, 1]), table([1, 0, 1]))
    write(tmp_path, table([0, 1]), table([1, 0]), "validation")
    unread = "the files not read are validation-00000-of-00001.parquet"
    with pytest.warns(UserWarning, match=f"^of {spec}: {unread}$"):
        assert len(load_data(spec).test) == 3


def test_files_that_list_the_classes_differently_are_refused(tmp_path):
    """`datasets` takes the first file's list for all: cats would be dogs."""
    other = table([0, 1], kind=datasets.ClassLabel(names=["dog", "cat"]))
    spec = write(tmp_path, table([0, 1]), other)
    with pytest.raises(InputError, match="list the classes of the column 'label' differently"):
        load_data(spec)


def test_splits_and_columns_that_are_not_read_are_said(monkeypatch):
    rows = table([0, 1], weight=(datasets.Value("float32"), [0.5, 0.5]))
    hub(monkeypatch, train=rows, test=rows, validation=rows, unsupervised=rows)
    with pytest.warns(UserWarning, match="^of hub:x: ") as caught:
        load_data("hub:x")
    assert [str(warning.message) for warning in caught] == [
        "of hub:x: the splits not read are validation (2 rows), unsupervised (2 rows); "
        "the columns not read are weight"
    ]


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([1, 3, 2, 1], ("1", "2", "3"), [0, 2, 1, 0]),
        ([0, 5, 1, 5, 0, 0], ("0", "1", "5"), [0, 2, 1, 2, 0, 0]),
    ],
)
def test_gaps_in_numbers_are_no_classes_and_are_said(monkeypatch, labels, names, numbers):
    rows = table(labels, kind=datasets.Value("int64"))
    hub(monkeypatch, train=rows, test=rows)
    with pytest.warns(UserWarning, match=f"its labels {', '.join(names)} are the 3 classes, and"):
        data = load_data("hub:x")
    assert data.class_names == names
    assert data.train.labels_N.tolist() == data.test.labels_N.tolist() == numbers


def test_listed_classes_without_images_are_said(monkeypatch):
    rows = table([0, 2], kind=datasets.ClassLabel(names=["cat", "emu", "dog"]))
    hub(monkeypatch, train=rows, test=rows)
    with pytest.warns(UserWarning, match="no training image is of 1 of the 3 classes: emu"):
        data = load_data("hub:x")
    assert data.class_names == ("cat", "emu", "dog")
    assert data.train.labels_N.tolist() == [0, 2]


def test_names_in_tables_are_made_printable(monkeypatch):
    labels = [
        "a\u202eb",
        "c\x00",
        "c\\x00",
        "z" * 10_000,
        "z" * 9_999 + "y",
        "日本",
        "👩\u200d🚀",
        "d e",
    ]
    rows = table(labels, kind=datasets.Value("string"))
    hub(monkeypatch, train=rows, test=rows)
    with pytest.warns(UserWarning, match="4 class names cannot be printed as they are"):
        data = load_data("hub:x")
    shown = [data.class_names[k] for k in data.train.labels_N.tolist()]
    assert shown[:3] == ["a\\u202eb", "c\\x00 (2)", "c\\x00"]
    assert shown[5:] == labels[5:]
    assert len(set(shown)) == len(labels)
    assert max(map(len, shown)) <= 104


@pytest.mark.filterwarnings("ignore:of (hub|parquet):")
def test_columns_named_by_the_user(tmp_path):
    coarse = datasets.ClassLabel(names=["animal", "thing"])
    rows = table([0, 1], image="img", label="kind", other=(coarse, [1, 0]))
    spec = write(tmp_path, rows, rows)
    data = load_data(spec, image_column="img", label_column="other")
    assert data.class_names == ("animal", "thing")
    assert data.train.labels_N.tolist() == [1, 0]


@pytest.mark.parametrize("preferred", ["label", "fine_label"])
@pytest.mark.filterwarnings("ignore:of (hub|parquet):")
def test_preferred_label_column(monkeypatch, preferred):
    coarse = datasets.ClassLabel(names=["animal", "thing"])
    rows = table([0, 1], label=preferred, coarse_label=(coarse, [1, 0]))
    hub(monkeypatch, train=rows, test=rows)
    assert load_data("hub:x").class_names == ("cat", "dog")


def test_columns_without_image_type_can_be_named(tmp_path):
    kinds = datasets.Features({"raw": datasets.Value("binary"), "y": datasets.Value("int32")})
    rows = datasets.Dataset.from_dict({"raw": [png(3), png(4)], "y": [0, 1]}, features=kinds)
    data = load_data(write(tmp_path, rows, rows), image_column="raw")
    assert first_pixels(data.train) == [3, 4]


@pytest.mark.parametrize(
    ("kind", "labels", "names", "numbers"),
    [
        ("int64", [0, 2, 1, 0], ("0", "1", "2"), [0, 2, 1, 0]),
        ("uint8", [0, 1, 1, 0], ("0", "1"), [0, 1, 1, 0]),
        ("string", ["dog", "ant", "cat", "dog"], ("ant", "cat", "dog"), [2, 0, 1, 2]),
    ],
)
def test_labels_without_class_names(monkeypatch, kind, labels, names, numbers):
    rows = table(labels, kind=datasets.Value(kind))
    hub(monkeypatch, train=rows, test=rows)
    data = load_data("hub:x")
    assert data.class_names == names
    assert data.train.labels_N.tolist() == numbers


def ints(labels, **more):
    return table(labels, kind=datasets.Value("int64"), **more)


def strings(labels):
    return table(labels, kind=datasets.Value("string"))


def floats(labels):
    return table(labels, kind=datasets.Value("float32"))


GOOD = table([0, 1])
TWO_KINDS = table([0, 1], label="a", b=(CAT_DOG, [0, 1]))
TWO_IMAGES = table([0, 1], other=(datasets.Image(), [{"bytes": png(0), "path": None}] * 2))
NO_LABEL = datasets.Dataset.from_dict({"x": [0.5, 0.5]})


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        ((TWO_KINDS, TWO_KINDS), {}, "2 columns could be the labels; .* a, b as --label-column"),
        (
            (TWO_IMAGES, TWO_IMAGES),
            {},
            "2 columns are marked as images; .* image, other as --image-col",
        ),
        ((NO_LABEL, NO_LABEL), {}, "no columns are marked as images; .*one of x as"),
        (
            (GOOD.remove_columns("label"),) * 2,
            {},
            "no columns could be the labels; .*one of image as",
        ),
        ((GOOD, GOOD), {"label_column": "y"}, "label_column 'y' does not exist; .*image, label$"),
        ((GOOD, GOOD), {"image_column": "y"}, "image_column 'y' does not exist; .*image, label$"),
        ((GOOD, GOOD), {"image_column": "label"}, "image_column 'label' holds .*not an image"),
        ((GOOD, GOOD), {"label_column": "image"}, "label_column 'image' holds .*neither whole"),
        (
            (table([0, 1, -1]), GOOD),
            {},
            "label -1 in train row 2 is not one of the 2 class numbers",
        ),
        ((GOOD, table([0, None])), {}, "test row 1 has no label"),
        ((ints([0, 1, 0, -3]), ints([0])), {}, "label -3 in train row 3 is negative"),
        ((ints([0, 1]), ints([0, 2])), {}, "label 2 in test row 1 is not one of .* 0, 1;"),
        (
            (ints([0, 10**9]), ints([0])),
            {},
            "label 1000000000 in train row 1 is too large for a class number",
        ),
        ((ints([None, 1]), ints([0])), {}, "train row 0 has no label"),
        ((strings(["a", ""]), strings(["a"])), {}, "train row 1 has no label"),
        ((floats([0.0, 1.0]), GOOD), {"label_column": "label"}, "neither whole numbers nor str"),
        ((floats([0.0, 1.0]), GOOD), {}, "no columns could be the labels"),
        ((strings(["a", None]), strings(["a"])), {}, "train row 1 has no label"),
        ((strings([None, "a"]), strings(["a"])), {}, "train row 0 has no label"),
        ((strings(["a", "b"]), strings(["c"])), {}, "label 'c' in test row 0 is not one .* a, b;"),
        ((table([1, 1]), GOOD), {}, "all training images belong to one class, 'dog'"),
        ((GOOD, GOOD.select([])), {}, "the test split is empty"),
        ((GOOD.select([]), GOOD), {}, "the train split is empty"),
    ],
)
def test_tables_that_cannot_be_used(monkeypatch, splits, options, message):
    hub(monkeypatch, train=splits[0], test=splits[1])
    with pytest.raises(InputError, match=message):
        load_data("hub:x", **options)


@pytest.mark.parametrize("empty", ["train", "test"])
def test_parquet_files_without_a_row_are_named(tmp_path, empty):
    splits = {"train": GOOD, "test": GOOD, empty: GOOD.select([])}
    spec = write(tmp_path, splits["train"], splits["test"])
    with pytest.raises(InputError, match=f"^the {empty} split is empty; pass data with at least"):
        load_data(spec)


@pytest.mark.filterwarnings("ignore:of (hub|parquet):")
def test_hub_takes_validation_for_a_missing_test(monkeypatch):
    asked = hub(monkeypatch, train=GOOD, validation=table([1, 0, 1]))
    assert len(load_data("hub:owner/name").test) == 3
    assert asked == ["owner/name"]


@pytest.mark.parametrize("splits", [{"train": GOOD}, {"test": GOOD, "extra": GOOD}])
def test_hub_without_the_splits(monkeypatch, splits):
    hub(monkeypatch, **splits)
    with pytest.raises(
        InputError, match=f"has the splits {', '.join(splits)}; pass one with a train"
    ):
        load_data("hub:x")


@pytest.mark.parametrize(
    "fault", [ConnectionError, RuntimeError, datasets.exceptions.DatasetsError]
)
def test_network_fault(monkeypatch, fault):
    def load_dataset(name):
        raise fault("no route\nto the host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        InputError, match=r"'owner/x' cannot be fetched .*no route\); check"
    ) as info:
        load_data("hub:owner/x")
    assert "\n" not in str(info.value)


def test_shuffled_rows_keep_their_labels(monkeypatch):
    rows = table([0, 1, 1, 0]).select([3, 1, 0])
    hub(monkeypatch, train=rows, test=rows)
    data = load_data("hub:x")
    assert first_pixels(data.train) == [3, 1, 0]
    assert data.train.labels_N.tolist() == [0, 1, 0]


@pytest.mark.parametrize("data", [b"nothing", b"", None])
def test_broken_cell_is_named_or_skipped(tmp_path, data):
    rows = table([0, 1, 0, 1], images=[png(0), png(1), data, png(3)])
    spec = write(tmp_path, rows, GOOD)
    with pytest.raises(InputError, match="image in train row 2 cannot be decoded"):
        load_data(spec)
    with pytest.warns(
        UserWarning, match="1 of the 6 images cannot be decoded .*the first is in train row 2"
    ):
        loaded = load_data(spec, skip_broken=True)
    assert first_pixels(loaded.train) == [0, 1, 3]
    assert loaded.train.labels_N.tolist() == [0, 1, 1]


def test_large_tables_are_streamed_by_workers(tmp_path):
    rows = table([0, 1, 0, 1])
    data = load_data(write(tmp_path, rows, rows), in_memory_limit=0)
    assert isinstance(data.train, StreamedImages)
    read = list(data.train.stream([torch.tensor([3, 1]), torch.tensor([0])], workers=1))
    assert [batch[:, 0, 0, 0].tolist() for batch in read] == [[3, 1], [0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist; pass the folder that holds train"),
        (lambda folder: folder.mkdir(), r"there is no train-\*\.parquet in"),
        (
            lambda folder: (write(folder, GOOD, GOOD), *map(_remove, folder.glob("test*"))),
            r"neither test-\*\.parquet nor validation-\*\.parquet",
        ),
        (
            lambda folder: (write(folder, GOOD, GOOD), *map(_spoil, folder.glob("test*"))),
            r"Parquet files in .* cannot be read \(.*\); check them",
        ),
    ],
)
def test_parquet_folders_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path / "data set")
    with pytest.raises(InputError, match=message) as info:
        load_data(f"parquet:{tmp_path / 'data set'}")
    assert "\n" not in str(info.value)


def test_the_test_files_really_carry_their_types(tmp_path):
    write(tmp_path, GOOD, GOOD)
    schema = pyarrow.parquet.read_schema(next(tmp_path.glob("test*")))
    assert b"ClassLabel" in schema.metadata[b"huggingface"]


def _remove(path):
    path.unlink()


def _spoil(path):
    path.write_bytes(b"no parquet")


def test_digits():
    data = load_data("digits")
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.shape_CHW == (1, 8, 8)
    assert data.class_names == tuple("0123456789")
    every = torch.cat([data.train.images_NCHW, data.test.images_NCHW])
    assert (every.min(), every.max()) == (0, 255)
    assert len(every.unique()) == 17
    share = torch.bincount(data.test.labels_N) / torch.bincount(
        torch.cat([data.train.labels_N, data.test.labels_N])
    )
    assert ((share - 0.2).abs() < 0.01).all()


def test_digits_are_those_of_scikit_learn_and_fixed():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    expected = {
        (np.round(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    torch.manual_seed(0)
    data = load_data("digits")
    found = {
        (image.numpy().tobytes(), int(label))
        for split in (data.train, data.test)
        for image, label in zip(split.images_NCHW, split.labels_N, strict=True)
    }
    assert found == expected
    torch.manual_seed(1)
    assert torch.equal(load_data("digits").test.images_NCHW, data.test.images_NCHW)


def test_digits_can_be_larger_and_in_colour():
    data = load_data("digits", image_size=16, channels=3)
    assert data.shape_CHW == data.test.shape_CHW == (3, 16, 16)


@pytest.mark.parametrize("spec", ["mnist", "csv:x", "", "parquet:", "digits:x", "hub"])
def test_unknown_data(spec):
    with pytest.raises(InputError, match="; pass digits, parquet:DIR, hub:NAME, folder"):
        load_data(spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size is 0; pass"),
        ({"channels": 2}, "channels is 2; pass 1 for grey or 3 for RGB"),
        ({"label_column": "y"}, "for parquet: and hub: only; leave them out for 'digits'"),
        ({"image_column": "x"}, "for parquet: and hub: only; leave them out for 'digits'"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        load_data("digits", **options)
