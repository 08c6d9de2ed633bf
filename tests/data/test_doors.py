"""Strangers' bytes: what is no image is refused in a sentence; nothing runs, blocks or leaks."""

import http.server
import io
import os
import shutil
import socket
import struct
import threading
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from selfexplain.app.explain import open_upload
from selfexplain.data import load_data, opening
from selfexplain.data.decode import TableRows
from selfexplain.data.opening import FORMATS, MAX_PIXELS, SUFFIXES, open_image
from selfexplain.data.tables import parquet_files
from selfexplain.errors import InputError
from selfexplain.experiments.explain.evaluate import BoxedImage, boxes_in_model, read_boxes
from selfexplain.experiments.explain.explain import read_images


def encoded(form="PNG", mode="L", size=(8, 8)):
    file = io.BytesIO()
    Image.new(mode, size).save(file, form)
    return file.getvalue()


def chunk(name, content):
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def png(*chunks, size=(8, 8)):
    """A grey PNG without pixels: further chunks, then the end."""
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")])


def tiled_tiff(tile):
    """A TIFF of 8 x 8 pixels that are a corner of one tile, which deflates to anything."""
    fields = {
        256: 8,
        257: 8,
        258: 8,
        259: 8,
        262: 1,
        277: 1,
        322: tile,
        323: tile,
        324: 200,
        325: 9,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(200)


def through_a_folder(path):
    """As trainings do: the file lies among good ones of its class."""
    folder = path.parent / "data"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            (folder / name / f"{number}.png").write_bytes(encoded())
    path.rename(folder / "cat" / path.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert (
            len(load_data(f"folder:{folder}", skip_broken=True).train) == 8
        )  # and one is left out
    load_data(f"folder:{folder}")


def through_streaming(path):
    folder = path.parent / "stream"
    (folder / "dog").mkdir(parents=True)
    (folder / "cat").mkdir()
    for number in range(5):
        (folder / "dog" / f"{number}.png").write_bytes(encoded())
    path.rename(folder / "dog" / path.name)
    shutil.copy(folder / "dog" / "0.png", folder / "cat")
    load_data(f"folder:{folder}", in_memory_limit=0)


def through_explain(path):
    read_images([path], (1, 8, 8))


def through_boxes(path):
    boxes = np.zeros((1, 4), np.float32)
    try:
        boxes_in_model(BoxedImage(path=path, boxes=boxes), (1, 8, 8))
    except OSError as error:  # read_images has refused the file before
        raise InputError(str(error)) from error


def through_a_table(path):
    TableRows([{"img": {"bytes": None, "path": path.name}}], "img", "train", (path.parent,)).open(0)


DOORS = [through_a_folder, through_streaming, through_explain, through_boxes, through_a_table]


def pipe(path):
    os.mkfifo(path)


def link_to(target):
    return lambda path: path.symlink_to(target)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "make",
    [
        pipe,
        link_to("/dev/zero"),
        link_to("/dev/stdin"),
        link_to("/proc/self/environ"),
        link_to("/proc/kmsg"),
        link_to("9.png"),
        lambda path: path.write_bytes(b""),
    ],
)
def test_what_is_no_plain_file_is_never_opened(tmp_path, door, make, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(Path("9.png"))
    with pytest.raises((InputError, OSError)) as caught:
        door(tmp_path / "9.png")
    assert "\n" not in str(caught.value)


def test_a_socket_is_no_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    bound_socket("9.png")
    with pytest.raises(InputError, match=r"9\.png cannot be decoded \(it is a socket; pass an im"):
        through_explain(tmp_path / "9.png")


def test_a_parquet_file_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "train-0.parquet")
    (tmp_path / "test-0.parquet").touch()
    with pytest.raises(InputError, match=r"train-0\.parquet is not a regular file"):
        parquet_files(tmp_path)


@pytest.mark.parametrize("form", ["EPS", "PCX", "TGA", "ICO", "JPEG2000", "SGI", "IM", "XBM"])
def test_other_decoders_see_no_byte(tmp_path, form, monkeypatch):
    """EPS above all, whose decoder starts Ghostscript."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("started"))
    mode = {"EPS": "RGB", "XBM": "1"}.get(form, "L")
    content = encoded(form, mode, (32, 32))
    (tmp_path / "z.png").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be decoded|not an image in a supported format"):
        through_explain(tmp_path / "z.png")
    with pytest.raises(InputError, match=r"pass a PNG, JPEG, WebP, GIF, BMP, TIFF, PPM or AVIF"):
        open_upload(content)
    with pytest.raises(InputError, match=r"it is no PNG, JPEG, .* file, whatever its name says"):
        through_a_folder(tmp_path / "z.png")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read_whatever_the_file_is_called(tmp_path, form):
    if form == "AVIF" and form not in opening._decoders():
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / "z.png"
    path.write_bytes(encoded(form))
    assert read_images([path], (1, 8, 8)).shape == (1, 1, 8, 8)
    assert open_upload(path.read_bytes()).size == (8, 8)


def test_the_endings_are_those_of_the_formats():
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in SUFFIXES} <= {*FORMATS, "MPO"}
    imagefolder = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
    assert imagefolder <= SUFFIXES


def _allocated(image):
    """What Pillow does before it decodes: nothing may be decoded that is larger than allowed."""
    if image.width * image.height > MAX_PIXELS:
        pytest.fail("decoded")
    image.im = Image.core.new(image.mode, image.size)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("png", png(size=(13_000, 13_000))),
        ("png", png(size=(50_000_001, 1))),
        ("tif", tiled_tiff(40_000)),
        ("ppm", b"P5 8000 8000 255\n"),
    ],
)
def test_the_header_is_checked_before_a_pixel_is_decoded(
    tmp_path, door, suffix, content, monkeypatch
):
    path = tmp_path / f"9.{suffix}"
    path.write_bytes(content)
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", _allocated)
    with pytest.raises((InputError, OSError), match=r"pixels|cannot be decoded|DecompressionBomb"):
        door(path)


def test_the_limit_is_one_for_all_and_can_be_raised(tmp_path, monkeypatch):
    assert MAX_PIXELS >= 6000 * 4000  # what cameras have
    path = tmp_path / "a.png"
    path.write_bytes(encoded(size=(30, 20)))
    monkeypatch.setattr(opening, "MAX_PIXELS", 599)
    with pytest.raises(InputError, match=r"a\.png cannot be decoded \(the image is 30 x 20 pixels"):
        read_images([path], (1, 8, 8))
    with pytest.raises(InputError, match=r"^the image is 30 x 20 pixels; pass one of at most"):
        open_upload(path.read_bytes())
    monkeypatch.setattr(opening, "MAX_PIXELS", 600)
    assert read_images([path], (1, 8, 8)).shape == (1, 1, 8, 8)


def test_huge_files_are_not_read(tmp_path):
    path = tmp_path / "a.webp"
    with path.open("wb") as file:
        file.write(b"RIFF\0\0\0\x80WEBPVP8X")
        file.truncate(2**32)  # takes no room on the disk
    with pytest.raises(InputError, match="the file has 4295 MB; pass one of at most 400 MB"):
        open_image(path)


def test_text_that_unpacks_to_much_is_refused(tmp_path):
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000)))
    (tmp_path / "9.png").write_bytes(png(bomb, chunk(b"IDAT", zlib.compress(bytes(72)))))
    with pytest.raises(InputError, match="too large"):
        through_explain(tmp_path / "9.png")


@contextmanager
def listening():
    """A server on loopback, and the paths that it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()


def table(cells):
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    labels = [row % 2 for row in range(len(cells))]
    return datasets.Dataset.from_dict({"img": cells, "label": labels}, features=features)


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    cache = str(tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def parquet_with(folder, *names):
    """A table of two good images, and one cell for each name of a file."""
    folder.mkdir(exist_ok=True)
    good = {"bytes": encoded(), "path": None}
    rows = table([good, good, *({"bytes": None, "path": str(name)} for name in names)])
    # The writer of `datasets` would put the files' bytes into the table.
    path = folder / "train-0.parquet"
    pyarrow.parquet.write_table(rows.data.table, path)
    table([good, good]).to_parquet(str(folder / "test-0.parquet"))
    return f"parquet:{folder}"


def test_a_table_names_files_of_its_own_folder_only(tmp_path, own_cache):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded())
    folder = tmp_path / "table"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "own.png").write_bytes(encoded())
    (folder / "link.png").symlink_to(secret)
    good = parquet_with(folder, "images/own.png", folder / "images" / "own.png")
    assert len(load_data(good).train) == 4
    with listening() as (host, asked):
        for name in (
            secret,
            "../secret.png",
            "images/../../secret.png",
            "link.png",
            f"file://{secret}",
            f"http://{host}/x.png",
            f"zip://x.png::http://{host}/x.zip",
            "hf://datasets/owner/name/x.png",
            "/proc/self/environ",
        ):
            spec = parquet_with(folder, name)
            refused = r"the image in train row 2 cannot be decoded \((the column 'img' names|FileN)"
            with pytest.raises(InputError, match=refused) as caught:
                load_data(spec)
            assert "\n" not in str(caught.value)
            with pytest.warns(UserWarning, match="1 of the 5 images cannot be decoded"):
                assert len(load_data(spec, skip_broken=True).train) == 2
        assert asked == []


def test_tables_of_the_hub_read_their_own_download_only(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    own = tmp_path / "hub" / "datasets--owner--name" / "snapshots" / "0" / "a.png"
    other = tmp_path / "hub" / "datasets--owner--private" / "a.png"
    for path in (own, other):
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded())
    good = {"bytes": encoded(), "path": None}
    for path in (own, other):
        rows = table([good, good, {"bytes": None, "path": str(path)}])
        monkeypatch.setattr(
            datasets, "load_dataset", lambda name, rows=rows: {"train": rows, "test": rows}
        )
        if path is own:
            assert len(load_data("hub:owner/name").train) == 3
        else:
            with pytest.raises(InputError, match=r"row 2 .* is not in the folder of the table"):
                load_data("hub:owner/name")


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": None}, {"bytes": None, "path": ""}])
def test_empty_cells_name_row_and_column(cell):
    with pytest.raises(InputError, match="the cell of the column 'img' is empty"):
        TableRows([{"img": cell}], "img", "train").open(0)


def test_boxes_stay_with_their_images(tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded())
    folder = tmp_path / "boxes"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "/dev/zero"):
        path = folder / "boxes.csv"
        path.write_text(f"image,x_min,y_min,x_max,y_max\n{name},0,0,4,4\n")
        with pytest.raises(InputError, match=r"line 2: the image .* does not lie in .*boxes, the"):
            read_boxes(path, ("cat", "dog"))
