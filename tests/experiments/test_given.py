"""Models without a run: weights in files, images in folders, and what is said when they do not fit.

One model of the user's own, whose weights are saved in every way and loaded again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.helpers.command_line import refused
from tests.helpers.recorded import MEAN, SIZE, STD, Images, Tiny

from selfexplain import InputError, Introspective, from_pretrained
from selfexplain.app.explain import Explainer
from selfexplain.app.serve import AppConfig
from selfexplain.app.viewer import MOST_EXAMPLES, examples_below
from selfexplain.cli import main
from selfexplain.experiments.fit.given import load_given, read_weights
from selfexplain.experiments.reading_options import ExplainConfig, ExportConfig, GivenModel
from selfexplain.models import build_model

TINY = "tests.helpers.recorded:tiny"
NAMES = ("cat", "dog", "newt")


@pytest.fixture(scope="module")
def trained() -> Tiny:
    torch.manual_seed(3)
    return Tiny(3, 3).eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, trained: Tiny) -> Path:
    """Weights, and images in a folder for each class."""
    folder = tmp_path_factory.mktemp("given")
    torch.save(trained.state_dict(), folder / "w.pt")
    for i, pixels in enumerate(Images().pixels_NCHW):
        path = folder / "images" / NAMES[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return folder


def given(place: Path, **more: Any) -> dict[str, Any]:
    known = {"image_size": SIZE, "mean": tuple(MEAN), "std": tuple(STD), "class_names": NAMES}
    return {"model": TINY, "weights": place / "w.pt", **known, **more}


FORMS: dict[str, Callable[[Tiny, Path], object]] = {
    "w.pt": lambda model, path: torch.save(model.state_dict(), path),
    "w.safetensors": lambda model, path: save_file(model.state_dict(), path),
    "whole.ckpt": lambda model, path: torch.save(
        {
            "epoch": 3,
            "optimizer": {"state": {}},
            "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()},
        },
        path,
    ),
    "objective.pth": lambda model, path: torch.save(
        Introspective(model, num_classes=3, aggregation="class").state_dict(), path
    ),
    "lightning.ckpt": lambda model, path: torch.save(
        {"state_dict": {f"objective.{k}": v for k, v in Introspective(model).state_dict().items()}},
        path,
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_weights_of_every_form_are_the_same_model(
    name: str, trained: Tiny, tmp_path: Path, place: Path
) -> None:
    FORMS[name](trained, tmp_path / name)
    before = torch.random.get_rng_state()
    run, model = load_given(GivenModel(**given(place, weights=tmp_path / name)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training
    x = Images().x_NCHW
    with torch.no_grad():
        assert torch.equal(model(x), trained(x))
    assert (run.class_names, run.shape_CHW) == (NAMES, (3, SIZE, SIZE))


@pytest.mark.parametrize(("classes", "channels"), [(5, 1), (7, 3), (12, 3), (2, 1)])
def test_classes_and_channels_are_seen_from_the_weights(
    classes: int, channels: int, tmp_path: Path
) -> None:
    model = build_model("resnet20", num_classes=classes, in_channels=channels)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    options = GivenModel(model="resnet20", weights=tmp_path / "w.pt", image_size=16)
    run, _ = load_given(options)
    assert run.class_names == tuple(map(str, range(classes)))
    assert run.shape_CHW == (channels, 16, 16)
    assert (run.mean_C.tolist(), run.std_C.tolist()) == ([0.0] * channels, [1.0] * channels)


def flags(place: Path, **more: str) -> list[str]:
    return [
        *("--model", TINY, "--weights", str(place / "w.pt"), "--image-size", str(SIZE)),
        *("--class-names", *NAMES, "--mean", *map(str, MEAN), "--std", *map(str, STD)),
        *(word for name, value in more.items() for word in (f"--{name}", value)),
    ]


def test_commands_take_the_model_and_a_folder(
    place: Path, trained: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = str(place / "images")
    cats = str(place / "images" / "cat")
    main(["explain", *flags(place, images=cats, out=str(tmp_path / "maps.png"))])
    assert Image.open(tmp_path / "maps.png").height > 4 * 50  # a row for each
    main(["export", *flags(place, out=str(tmp_path / "export"))])
    classifier = from_pretrained(tmp_path / "export")
    with torch.no_grad():
        logits = trained(Images().x_NCHW)
        exported = classifier(Images().pixels_NCHW / 255)
    torch.testing.assert_close(exported, logits, atol=1e-5, rtol=1e-4)
    card = (tmp_path / "export" / "README.md").read_text()
    assert "nothing is recorded of how it was trained" in card
    assert "model-index" not in card
    main(["report", *flags(place, images=images, out=str(tmp_path / "page.html"))])
    page = (tmp_path / "page.html").read_text()
    right = (logits.argmax(1) == torch.arange(12) % 3).float().mean().item()
    assert f"{100 * right:.2f}" in page
    assert "newt" in page
    assert "Reliability" in page
    said = capsys.readouterr().out
    assert said.count("Written: ") == 3


def test_the_app_has_the_model_and_the_examples_of_a_folder(place: Path, trained: Tiny) -> None:
    config = AppConfig(**given(place), images=place / "images")
    explainer = Explainer(config)
    assert explainer.class_names == NAMES
    examples = examples_below(place / "images", explainer.shape_CHW)
    assert [each.class_name for each in examples] == sorted(4 * NAMES)
    shown = explainer.explain(Images().pixels_NCHW[1], "cam")
    with torch.no_grad():
        p_K = trained(Images().x_NCHW[1:2]).softmax(1)[0]
    torch.testing.assert_close(shown.probability_K, p_K)
    assert not shown.own


def test_examples_of_many_images_are_spread(tmp_path: Path) -> None:
    for i in range(MOST_EXAMPLES + 40):
        pixels = np.full((4, 4), i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:03}.png")
    examples = examples_below(tmp_path, (1, 4, 4))
    assert len(examples) == MOST_EXAMPLES
    assert (examples[0].class_name, examples[-1].class_name) == ("000", "099")


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"model": "tests.helpers.recorded:tini"}, r"did you mean tests.helpers.recorded:tiny\?"),
    ({"model": "tests.helpers.recorder:tiny"}, "cannot be imported"),
    ({"model": "small_cn"}, "did you mean small_cnn"),
    ({"model": "small_cnn"}, "missing: block1.0.weight, block1.1.weight, .* and 15 more; unknown:"),
    (
        {"class_names": ("a", "b")},
        "--class-names has 2 names, and .* 3 classes; pass a name for each",
    ),
    ({"class_names": ("a", "a", "b")}, "class_names names one twice"),
    ({"image_size": None}, "pass --image-size, the side in pixels"),
    ({"image_size": 2}, "cannot take images of shape"),
    ({"mean": (0.1, 0.2)}, "mean is .* for images of 3 channel"),
    ({"std": (0.0,)}, "std is 0; pass a number above 0"),
    ({"weights": Path("absent.pt")}, "there is no file absent.pt"),
    ({"weights": Path()}, ". is a folder; pass the weights of the model"),
    ({"pretrained": True}, "published weights come with all that is known"),
    ({"weights": None}, "knows nothing yet|--image-size is of a model"),
    ({"model": None}, "--weights is of a model; pass --model too"),
]


@pytest.mark.parametrize(("change", "said"), MISFITS)
def test_what_does_not_fit_is_said(change: dict[str, Any], said: str, place: Path) -> None:
    def load() -> None:
        load_given(ExportConfig(**given(place, **change), out=place / "export"))

    with pytest.raises(InputError, match=said):
        load()


def test_modules_of_nearly_the_name_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_networks.py").write_text("")
    with pytest.raises(InputError, match=r"did you mean my_networks:tiny\?"):
        build_model("my_network:tiny", num_classes=2, in_channels=1)


def test_weights_of_another_size_are_named(place: Path, tmp_path: Path) -> None:
    other = Tiny(3, 3).state_dict()
    other["head.weight"] = torch.zeros(3, 5)
    other["head.scale"] = torch.zeros(3)
    del other["features.1.bias"]
    torch.save(other, tmp_path / "w.pt")
    with pytest.raises(InputError) as raised:
        load_given(GivenModel(**given(place, weights=tmp_path / "w.pt")))
    assert (
        "(missing: features.1.bias; unknown: head.scale; of another shape: head.weight (3, 5) in "
        "place of (3, 4))"
    ) in str(raised.value)


class Code:
    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return print, ("run by a file of weights",)


@pytest.mark.parametrize("content", ["code", "model", "list", "torn", "empty"])
def test_files_that_hold_no_weights_are_refused_and_run_nothing(
    content: str, tmp_path: Path, trained: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pt"
    held = {"code": Code(), "model": trained, "list": [1, 2]}
    if content in held:
        torch.save(held[content], path)
    else:
        path.write_bytes(b"torn" if content == "torn" else b"")
    with pytest.raises(InputError, match=r"pass a state_dict, saved by torch.save"):
        read_weights(path)
    assert capsys.readouterr().out == ""


def test_a_folder_without_images_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    (tmp_path / "empty" / ".hidden" / "a.png").write_bytes(b"")
    empty, out = str(tmp_path / "empty"), str(tmp_path / "a.png")
    assert "holds no images" in refused(capsys, "explain", *flags(place, images=empty, out=out))
    with pytest.raises(InputError, match="holds no images"):
        examples_below(tmp_path / "empty", (3, SIZE, SIZE))
    page = str(tmp_path / "a.html")
    said = refused(capsys, "report", *flags(place, images=empty, out=page))
    assert "holds no images" in said
    said = refused(capsys, "report", *flags(place, images=str(place), out=page))
    assert "does not lie in a folder of one of the 3 classes (cat, dog, newt)" in said
    said = refused(capsys, "report", *flags(place, images=str(place / "absent"), out=page))
    assert "there is no folder" in said
    assert not (tmp_path / "a.html").exists()


def test_a_run_has_its_model(place: Path) -> None:
    for make in (
        lambda **more: ExplainConfig(run=(place,), out=Path("a.png"), **more),
        lambda **more: ExportConfig(run=place, out=Path("a"), **more),
        lambda **more: AppConfig(run=(place,), **more),
    ):
        with pytest.raises(InputError, match="a run has its model"):
            make(model=TINY)
        with pytest.raises(InputError, match="a run has its model"):
            make(image_size=3)
    for make in (ExportConfig, AppConfig):
        options = {"out": Path("a")} if make is ExportConfig else {}
        with pytest.raises(InputError, match="run is empty; pass a folder, or --model"):
            make(**options)
