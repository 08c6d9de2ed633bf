"""Images keep what they hold: every mode and depth against plain arithmetic."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from selfexplain.data import load_data
from selfexplain.data.datasets import Building, image_data
from selfexplain.data.decode import Files, RawData, RawSplit
from selfexplain.data.images import OutgrownError, Ranges, native_channels, to_array
from selfexplain.data.opening import open_image
from selfexplain.errors import InputError

SHARES_HW = np.linspace(0, 1, 64).reshape(8, 8)  # 64 values from black to white
CHOICES = Building(channels=None, image_size=None, skip_broken=False, in_memory_limit=2**30)
STREAMED = Building(channels=None, image_size=None, skip_broken=False, in_memory_limit=0)


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def deep_png(values_HWC, transparent=None):
    """A PNG of 16 bits a channel, which Pillow cannot write: grey, LA, RGB or RGBA."""
    height, width, channels = values_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    clear = b"" if transparent is None else chunk(b"tRNS", struct.pack(">3H", *transparent))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + clear
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def deep_tiff(values_HWC, tags=()):
    """An uncompressed little-endian TIFF of 16 bits a channel; `tags` add to it or replace."""
    height, width, channels = values_HWC.shape
    fields = {256: [width], 257: [height], 258: [16] * channels, 259: [1], 273: [0], 278: [height]}
    fields |= {262: [2 if channels == 3 else 1], 277: [channels], 279: [2 * values_HWC.size]}
    fields |= dict(tags)
    after = 8 + 2 + 12 * len(fields) + 4
    extra = struct.pack(f"<{channels}H", *fields[258]) if channels > 2 else b""
    fields[273] = [after + len(extra)]
    entries = b""
    for tag, values in sorted(fields.items()):
        inline = struct.pack("<I", after if len(values) > 2 else values[0])
        entries += struct.pack("<HHI", tag, 3 if tag == 258 or len(values) > 1 else 4, len(values))
        entries += inline
    head = b"II*\0" + struct.pack("<IH", 8, len(fields))
    return head + entries + bytes(4) + extra + values_HWC.astype("<u2").tobytes()


def read(arrays_or_bytes, folder, suffix="tif", choices=CHOICES):
    """Load images as both splits of a data set: what the training images became, and the notes."""
    paths = []
    for number, content in enumerate(arrays_or_bytes):
        path = folder / f"{number}.{suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, Image.Image):
            content.save(path)
        else:
            Image.fromarray(content).save(path)
        paths.append(path)
    labels_N = torch.arange(len(paths)) % 2
    split = RawSplit(name="train", source=Files(tuple(paths)), labels_N=labels_N)
    data, _, notes = image_data(RawData(train=split, test=split, class_names=("a", "b")), choices)
    return data.train.read(torch.arange(len(paths))).numpy(), notes


@pytest.mark.parametrize("choices", [CHOICES, STREAMED])
@pytest.mark.parametrize(
    ("top", "kind", "suffix", "expected"),
    [
        (1, np.float32, "tif", lambda v: np.rint(v * 255)),
        (1, np.float32, "pfm", lambda v: np.rint(v * 255)),
        (255, np.float32, "tif", np.rint),
        (4095, np.float32, "tif", lambda v: np.rint(v) // 16),
        (65535, np.float32, "tif", lambda v: np.rint(v) // 256),
        (255, np.int32, "tif", lambda v: v),
        (4095, np.int32, "tif", lambda v: v // 16),
        (65535, np.int32, "tif", lambda v: v // 256),
        (255, np.uint16, "png", lambda v: v),
        (1023, np.uint16, "png", lambda v: v // 4),
        (4095, np.uint16, "png", lambda v: v // 16),
        (16383, np.uint16, "tif", lambda v: v // 64),
        (65535, np.uint16, "tif", lambda v: v // 256),
    ],
)
def test_depths_are_scaled_by_one_range_of_the_set(tmp_path, choices, top, kind, suffix, expected):
    """The first image is dark: by its own range it would be as bright as the second."""
    bright = (SHARES_HW * top).astype(kind)
    images = [(SHARES_HW * top / 300).astype(kind), bright, bright[::-1].copy()]
    found_NCHW, notes = read(images, tmp_path, suffix, choices)
    assert found_NCHW.shape == (3, 1, 8, 8)
    for found_CHW, values in zip(found_NCHW, images, strict=True):
        np.testing.assert_array_equal(found_CHW[0], expected(values))
    assert len(np.unique(found_NCHW[1])) == 64  # not one grey level is lost
    deeper = top > (1 if kind is np.float32 else 255)
    assert notes == [note for note in notes if f"from the range 0 to {top}" in note]
    assert len(notes) == deeper


def test_signed_shares(tmp_path):
    values = (2 * SHARES_HW - 1).astype(np.float32)
    found_NCHW, notes = read([np.abs(values), values], tmp_path)
    np.testing.assert_array_equal(found_NCHW[1, 0], np.rint((values + 1) * 127.5))
    np.testing.assert_array_equal(found_NCHW[0, 0], np.rint((np.abs(values) + 1) * 127.5))
    assert notes == ["images of floats are read from the range -1 to 1"]


@pytest.mark.parametrize("choices", [CHOICES, STREAMED])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(SHARES_HW > 0.5, np.nan, 0).astype(np.float32), "NaN or infinite"),
        (np.where(SHARES_HW > 0.5, np.inf, 0).astype(np.float32), "NaN or infinite"),
        ((SHARES_HW * 3000 - 1000).astype(np.float32), "values range from -1000 to 2000"),
        ((SHARES_HW * 1e6).astype(np.float32), r"values range from 0 to 1e\+06"),
        ((SHARES_HW * 1.02).astype(np.float32), "exceed 1 but not 15"),
        ((SHARES_HW * 3000 - 1000).astype(np.int32), "values range from -1000 to 2000"),
        ((SHARES_HW * (2**31 - 1)).astype(np.int32), r"values range from 0 to 2.14748e\+09"),
    ],
)
def test_values_without_a_range_are_refused_by_name(tmp_path, choices, values, message):
    good = SHARES_HW.astype(values.dtype)
    with pytest.raises(InputError, match=rf"the image .*\d\.tif .*{message}"):
        read([good, values], tmp_path, choices=choices)


@pytest.mark.parametrize("top", [255, 4095, 65535])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("encode", [deep_png, deep_tiff])
def test_sixteen_bits_a_colour(tmp_path, encode, channels, top):
    rng = np.random.default_rng(0)
    values_HWC = rng.integers(0, top + 1, (6, 5, channels))
    values_HWC[0, 0] = top
    values_HWC[..., 3:] = top  # opaque
    tags = {338: [2]} if channels == 4 else {}
    encoded = encode(values_HWC, *([tags | {262: [2]}] if encode is deep_tiff else []))
    found_NCHW, _ = _one(encoded, tmp_path)
    expected_CHW = (values_HWC[..., :3] // ((top + 1) // 256)).transpose(2, 0, 1)
    np.testing.assert_array_equal(found_NCHW[0], expected_CHW)


def _one(encoded, folder):
    return read([encoded, encoded], folder)


def test_transparent_colours_of_sixteen_bits_are_black(tmp_path):
    values_HWC = np.full((4, 4, 3), 40_000)
    values_HWC[1, 2] = (40_000, 40_001, 40_000)  # its upper bytes are the same
    found_NCHW, _ = _one(deep_png(values_HWC, (40_000, 40_001, 40_000)), tmp_path)
    assert found_NCHW[0][:, 1, 2].tolist() == [0, 0, 0]
    assert np.count_nonzero(found_NCHW[0] == 40_000 // 256) == 45


@pytest.mark.parametrize(
    ("tags", "message"), [({262: [0]}, "16-bit pixels store white as 0"), ({339: [2]}, None)]
)
def test_inverted_and_signed_tiffs(tmp_path, tags, message):
    values_HWC = (SHARES_HW * 4095).astype(np.int64)[..., None]
    encoded = deep_tiff(values_HWC, tags)
    if message is None:
        np.testing.assert_array_equal(_one(encoded, tmp_path)[0][0, 0], values_HWC[..., 0] // 16)
    else:
        with pytest.raises(InputError, match=message):
            _one(encoded, tmp_path)


def test_grey_with_alpha_of_16_bits_keeps_its_lower_bytes(tmp_path):
    grey_HW = (SHARES_HW * 4095).astype(np.int64)
    opaque = deep_png(np.stack([grey_HW, np.full_like(grey_HW, 65535)], axis=-1))
    clear = deep_png(np.stack([grey_HW, np.where(grey_HW < 2000, 0, 65535)], axis=-1))
    found_NCHW, notes = read([opaque, clear], tmp_path, "png")
    assert "images of 16 bits" in notes[0]
    np.testing.assert_array_equal(found_NCHW[0][0], grey_HW // 16)
    np.testing.assert_array_equal(found_NCHW[1][0], np.where(grey_HW < 2000, 0, grey_HW // 16))


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_a_fourth_channel_of_16_bits_is_not_taken_for_the_range(tmp_path, extra):
    """It is padding, premultiplied alpha, or alpha; all opaque here."""
    grey_HW1 = (SHARES_HW * 4095).astype(np.int64)[..., None]
    values_HWC = np.concatenate([grey_HW1] * 3 + [np.full_like(grey_HW1, 65535)], axis=-1)
    encoded = deep_tiff(values_HWC, {262: [2], 338: [extra]})
    found_NCHW, _ = _one(encoded, tmp_path)
    for found_HW in found_NCHW[0]:
        np.testing.assert_array_equal(found_HW, grey_HW1[..., 0] // 16)


def test_premultiplied_colours_of_16_bits_are_laid_on_black_as_they_are(tmp_path):
    values_HWC = np.broadcast_to(np.array([8000, 400, 0, 20_000]), (8, 8, 4)).copy()
    values_HWC[0, 0] = (65535, 65535, 65535, 65535)
    found_NCHW, _ = _one(deep_tiff(values_HWC, {262: [2], 338: [1]}), tmp_path)
    assert found_NCHW[0][:, 1, 1].tolist() == [8000 // 256, 1, 0]


def test_planes_of_16_bits_are_refused(tmp_path):
    values_HWC = np.zeros((8, 8, 3), np.int64)
    with pytest.raises(InputError, match="16-bit channels in separate planes"):
        _one(deep_tiff(values_HWC, {284: [2]}), tmp_path)


RED = (200, 30, 10)


@pytest.mark.parametrize(
    ("mode", "suffix", "tolerance"),
    [
        ("RGB", "png", 0),
        ("RGB", "bmp", 0),
        ("RGB", "ppm", 0),
        ("RGB", "tif", 0),
        ("RGB", "JPG", 6),
        ("RGB", "webp", 6),
        ("RGBA", "png", 0),
        ("RGBA", "tif", 0),
        ("RGBX", "tif", 0),
        ("P", "png", 0),
        ("P", "gif", 0),
        ("PA", "tif", 0),
        ("CMYK", "tif", 0),
        ("CMYK", "jpg", 6),
        ("YCbCr", "jpg", 6),
    ],
)
def test_colours_of_every_mode_and_format(tmp_path, mode, suffix, tolerance):
    image = Image.new("RGB", (8, 8), RED)
    image = image.quantize(4).convert(mode) if mode in {"P", "PA"} else image.convert(mode)
    found_NCHW, notes = read([image, image], tmp_path, suffix)
    assert np.abs(found_NCHW[0].astype(int) - np.array(RED)[:, None, None]).max() <= tolerance
    assert notes == []


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("L", "pgm"), ("L", "tif"), ("LA", "png")]
)
def test_grey_of_eight_bits_is_kept(tmp_path, mode, suffix):
    values_HW = np.rint(SHARES_HW * 255).astype(np.uint8)
    found_NCHW, _ = read([Image.fromarray(values_HW).convert(mode)] * 2, tmp_path, suffix)
    for found_HW in found_NCHW[0]:
        np.testing.assert_array_equal(found_HW, values_HW)


def test_premultiplied_grey():
    image = Image.new("LA", (4, 4), (100, 128)).convert("La")
    assert np.abs(to_array(image, 1).astype(int) - 50).max() <= 1


def test_ranges_refuse_what_they_do_not_hold():
    bright = Image.fromarray((SHARES_HW * 60_000).astype(np.uint16))
    with pytest.raises(OutgrownError, match="values from 0 to 60000") as caught:
        to_array(bright, 1, ranges=Ranges(integers=4095))
    assert caught.value.ranges == Ranges(integers=65535)
    own = to_array(Image.fromarray((SHARES_HW * 4095).astype(np.uint16)), 1)
    set_HW = to_array(
        Image.fromarray((SHARES_HW * 4095).astype(np.uint16)), 1, ranges=Ranges(integers=65535)
    )
    assert (own.max(), set_HW.max()) == (255, 15)


@pytest.mark.parametrize("record", [None, {}, {"integers": 7}, {"floats": "x"}, [1], {"other": 1}])
def test_damaged_records_of_ranges_are_none(record):
    found = Ranges.recorded(record)
    assert found is None or found == Ranges()


@pytest.mark.parametrize("choices", [CHOICES, STREAMED])
@pytest.mark.parametrize("first", ["L", "RGB"])
def test_a_mixed_set_is_read_in_colour_and_told(tmp_path, choices, first):
    grey, red = Image.new("L", (8, 8), 50), Image.new("RGB", (8, 8), RED)
    images = [grey, red, red] if first == "L" else [red, red, grey]
    found_NCHW, notes = read(images, tmp_path, "png", choices)
    assert found_NCHW.shape == (3, 3, 8, 8)
    assert found_NCHW[1, :, 0, 0].tolist() == list(RED)
    assert len(notes) == 1
    assert notes[0].startswith("2 of 6 images are grey and the others in colour")
    as_grey = Building(
        channels=1,
        image_size=None,
        skip_broken=False,
        in_memory_limit=choices.in_memory_limit,
    )
    assert read(images, tmp_path, "png", as_grey)[0].shape == (3, 1, 8, 8)


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_of_several_frames_the_first_is_read_and_it_is_said(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (200, 100, 50)]
    path = tmp_path / f"several.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    found_NCHW, notes = read([path.read_bytes(), path.read_bytes()], tmp_path, suffix)
    assert abs(int(found_NCHW[0, 0, 0, 0]) - 200) < 10
    assert notes == ["of 4 images with several frames or pages the first is read"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("L", "tif"), ("L", "jpg"), ("I;16", "png"), ("I;16", "tif")]
)
def test_orientation_is_honoured_once_in_memory_and_streamed(tmp_path, mode, suffix, orientation):
    """Oblong images: a wrong turn would have another size."""
    values = np.zeros((6, 9), np.uint16 if mode == "I;16" else np.uint8)
    values[:3, :4] = 65535 if mode == "I;16" else 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(values).save(path, exif=exif)
    turned = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True)}
    quarters, mirrored = {1: (0, False), 8: (1, False), **turned}[orientation]
    expected = np.rot90(values > 0, quarters)
    expected = expected[:, ::-1] if mirrored else expected
    for choices in (CHOICES, STREAMED):
        found_NCHW, _ = read([path.read_bytes()] * 2, tmp_path, suffix, choices)
        np.testing.assert_array_equal(found_NCHW[0, 0] > 127, expected)


def test_native_channels():
    modes = {"1": 1, "L": 1, "I": 1, "F": 1, "I;16": 1, "P": 3, "RGB": 3, "CMYK": 3, "LA": 3}
    assert {mode: native_channels(Image.new(mode, (2, 2))) for mode in modes} == modes


def test_deep_images_come_out_of_tables_alike(tmp_path, monkeypatch):
    import datasets

    cells = [{"bytes": deep_png(np.full((8, 8, 1), v)), "path": None} for v in (16, 4095, 0)]
    rows = datasets.Dataset.from_dict(
        {"image": cells, "label": [0, 1, 0]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    splits = datasets.DatasetDict(train=rows, test=rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)
    with pytest.warns(UserWarning, match="of hub:x: images of 16 bits .* 0 to 4095"):
        data = load_data("hub:x")
    assert data.ranges == Ranges(integers=4095)
    assert data.train.images_NCHW[:, 0, 0, 0].tolist() == [1, 255, 0]


def test_an_opened_deep_image_can_be_read_twice():
    """The page of the app brings one image to the shapes of several models."""
    values_HWC = np.random.default_rng(0).integers(0, 4096, (6, 5, 3))
    values_HWC[0, 0] = 4095
    image = open_image(deep_png(values_HWC))
    for _ in range(2):
        np.testing.assert_array_equal(to_array(image, 3), (values_HWC // 16).transpose(2, 0, 1))
