"""`selfexplain explain` as a user meets it."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.helpers.command_line import refused

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments.explain.explain import read_images


def test_explain_draws_a_picture(trained: Path, tmp_path: Path) -> None:
    for name, mode in (("a.png", "L"), ("b.png", "RGBA")):
        Image.new(mode, (40, 30), 128 if mode == "L" else (200, 10, 10, 255)).save(tmp_path / name)
    out = tmp_path / "picture.png"
    images = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    main(["explain", "--run", str(trained), "--images", *images, "--out", str(out)])
    with Image.open(out) as picture:
        assert picture.width > 500


def test_explain_takes_images_that_are_not_square_as_they_are(
    tmp_path: Path,
) -> None:
    image = tmp_path / "image.png"
    Image.new("L", (9, 8)).save(image)
    assert read_images([image], (1, 8, 9)).shape == (1, 1, 8, 9)
    with pytest.raises(InputError, match=r"is 8 x 9 pixels .* are 6 x 9; pass images of that"):
        read_images([image], (1, 6, 9))


def test_explain_names_what_is_missing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "picture.png")
    said = refused(capsys, "explain", "--run", str(trained), "--images", "absent.png", "--out", out)
    assert "there is no image absent.png" in said
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    said = refused(capsys, "explain", "--run", str(trained), "--images", str(broken), "--out", out)
    assert "broken.png cannot be decoded (" in said
    assert "; pass an image file" in said  # and no --skip-broken, which explain lacks
    said = refused(capsys, "explain", "--run", str(tmp_path), "--images", str(broken), "--out", out)
    assert "contains no finished run" in said
    fine = tmp_path / "fine.png"
    Image.new("L", (16, 16)).save(fine)
    said = refused(
        capsys, "explain", "--run", str(trained), "--images", str(fine), "--out", out + ".doc"
    )
    assert "png" in said


def test_explain_refuses_a_checkpoint_of_something_else(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, image = tmp_path / "run", tmp_path / "image.png"
    shutil.copytree(trained, run)
    Image.new("L", (16, 16)).save(image)
    explain = ("explain", "--run", str(run), "--images", str(image), "--out", f"{image}.svg")
    torch.save({"a": 1}, run / "checkpoint.pt")
    assert "checkpoint.pt has format None, not 1" in refused(capsys, *explain)
    torch.save({"format": 1}, run / "checkpoint.pt")
    assert "checkpoint.pt cannot be loaded ('objective' is missing)" in refused(capsys, *explain)
