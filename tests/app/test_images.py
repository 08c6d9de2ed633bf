"""Image files from strangers: what is read, and what is refused in one sentence."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.app_files import png_that_declares

from selfexplain.app.explain import MAX_BYTES, open_upload, to_shape
from selfexplain.data import opening
from selfexplain.data.opening import MAX_PIXELS
from selfexplain.errors import InputError

RED = (200, 30, 10)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def refusal(content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        open_upload(content)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert "0x" not in sentence  # no addresses of objects
    return sentence


@pytest.mark.parametrize(
    ("width", "height"), [(5_001, 10_000), (10_000, 10_000), (60_000, 60_000), (2**31 - 1, 9)]
)
def test_bombs_are_refused_by_their_header(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below and above Pillow's own limits, and without decoding a pixel."""
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        content = png_that_declares(width, height)
        assert len(content) < 50_000
        sentence = refusal(content)
    assert f"at most {MAX_PIXELS / 1e6:g} million pixels" in sentence


def test_the_largest_image_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_PIXELS", 20)
    assert open_upload(encoded(Image.new("L", (5, 4)), "PNG")).size == (5, 4)
    assert "7 x 3 pixels" in refusal(encoded(Image.new("L", (7, 3)), "PNG"))


def test_too_many_bytes_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    assert "pass one of at most 10 MB" in refusal(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_cut_files_are_refused(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), form)
    assert open_upload(whole).size == (64, 64)
    assert "damaged or truncated" in refusal(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    "content",
    [
        b"just text in a file called photo.png",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        encoded(Image.new("L", (9, 9)), "PCX"),
        encoded(Image.new("RGB", (9, 9)), "EPS"),
        b"\x00",
    ],
)
def test_other_files_are_refused(content: bytes) -> None:
    assert "pass a PNG, JPEG, WebP, GIF, BMP, TIFF, PPM or AVIF file" in refusal(content)


def test_an_empty_file_is_refused() -> None:
    assert "the file is empty" in refusal(b"")


@pytest.mark.parametrize(
    ("image", "form"),
    [
        (Image.new("RGB", (40, 40), RED), "PNG"),
        (Image.new("RGB", (40, 40), RED).convert("P"), "PNG"),
        (Image.new("RGB", (40, 40), RED).convert("P"), "GIF"),
        (Image.new("RGBA", (40, 40), (*RED, 255)), "WEBP"),
        (Image.new("RGB", (40, 40), RED).convert("CMYK"), "JPEG"),
    ],
)
def test_modes_keep_their_colours(image: Image.Image, form: str) -> None:
    pixels_CHW = to_shape(open_upload(encoded(image, form)), (3, 8, 8))
    assert pixels_CHW.dtype == torch.uint8
    expected_CHW = torch.tensor(RED)[:, None, None].expand(3, 8, 8)
    assert (pixels_CHW.int() - expected_CHW).abs().max() <= 12  # what JPEG and palettes lose


def test_sixteen_bits_are_scaled() -> None:
    deep = Image.fromarray(np.full((8, 8), 32_768, dtype=np.uint16))
    assert to_shape(open_upload(encoded(deep, "PNG")), (1, 8, 8)).unique().tolist() == [128]


def test_transparent_pixels_are_black() -> None:
    """A palette with a transparent colour, which hides white."""
    clear = Image.new("P", (8, 8), 0)
    clear.putpalette([255, 255, 255])
    content = encoded(clear, "PNG", transparency=0)
    assert to_shape(open_upload(content), (3, 8, 8)).max() == 0


def test_photographs_are_turned_upright() -> None:
    """Orientation 6: the first row of the file is the right column of the picture."""
    rows = np.zeros((8, 8), dtype=np.uint8)
    rows[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(rows), "JPEG", exif=exif, quality=95)
    upright_HW = to_shape(open_upload(content), (1, 8, 8))[0]
    assert upright_HW[:, 5:].min() > 200
    assert upright_HW[:, :3].max() < 50


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert to_shape(open_upload(content), (3, 8, 8))[2].max() < 20


def test_oblong_models_take_their_size_alone() -> None:
    image = open_upload(encoded(Image.new("L", (6, 4)), "PNG"))
    assert to_shape(image, (1, 4, 6)).shape == (1, 4, 6)
    with pytest.raises(InputError, match=r"4 x 6 pixels .* takes 6 x 4"):
        to_shape(image, (1, 6, 4))
