"""Trained classifiers that are taken away give the same logits elsewhere."""

import copy
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import selfexplain
from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments import export as hub
from selfexplain.experiments.data import load
from selfexplain.experiments.export import ExportConfig, export_run
from selfexplain.experiments.fit import pretrained
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import DataOptions, RetrainConfig, TrainConfig
from selfexplain.files import read_json
from selfexplain.spaces import load_genotype
from selfexplain.spaces.standalone import source_of
from selfexplain.training import TrainingOptions

CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|skip_connect~2|"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "small"
    data = DataOptions(data="digits", train_size=200)
    run_training(TrainConfig(data=data, training=TrainingOptions(epochs=1), out=out))
    return out


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "derived"
    config = RetrainConfig(
        data=DataOptions(data="digits", train_size=200),
        genotype=CELL,
        init_channels=4,
        cells=1,
        training=TrainingOptions(epochs=1),
        out=out,
    )
    run_training(config)
    return out


def pixels() -> torch.Tensor:
    return load(DataOptions(data="digits")).test.read(torch.arange(32)) / 255


def test_scores_of_the_run_come_back(run: Path, tmp_path: Path) -> None:
    """Accuracy on the test images, through normalisation in the classifier."""
    export_run(ExportConfig(run=run, out=tmp_path / "out"))
    classifier = selfexplain.from_pretrained(tmp_path / "out")
    assert not classifier.training
    test = load(DataOptions(data="digits")).test
    with torch.no_grad():
        right = classifier(test.read(torch.arange(len(test))) / 255).argmax(1) == test.labels_N
    accuracy = json.loads((run / "result.json").read_text())["accuracy"]
    assert 100 * right.double().mean().item() == pytest.approx(accuracy)
    assert classifier.class_names == tuple("0123456789")


def test_onnx_and_torch_export_give_the_same_logits(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    export_run(ExportConfig(run=run, out=out, formats=("onnx", "torch_export")))
    expected = selfexplain.from_pretrained(out)(pixels()).detach()
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    found = torch.from_numpy(np.asarray(session.run(None, {"pixels": pixels().numpy()})[0]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    program = torch.export.load(out / "model.pt2").module()
    torch.testing.assert_close(program(pixels()).detach(), expected, rtol=1e-4, atol=1e-4)
    assert names_no_place(out, run)


def names_no_place(folder: Path, *places: Path) -> bool:
    """Whether no file holds a path of this machine: of the code, the interpreter, the user."""
    written = b""
    for path in folder.iterdir():
        written += path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                written += b"".join(archive.read(name) for name in archive.namelist())
    source = Path(selfexplain.__file__).parents[1]
    known = [source, Path(torch.__file__).parents[1], Path.home(), Path.cwd(), *places]
    found = [place for place in known if str(place).encode() in written]
    return not found and b"site-packages" not in written and len(written) > 1_000


def test_no_place_and_no_markup_in_what_is_published(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data lay in a home folder, and a class has the name of a script."""
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: FakeHub(tmp_path / "hub"))
    moved = Path(shutil.copytree(run, tmp_path / "run"))
    record = read_json(moved / "run.json")
    record["config"]["data"]["data"] = f"folder:{tmp_path}/my pets"
    record["config"]["teacher"] = str(tmp_path / "wide")
    record["config"]["objective"] = f"standard:other={tmp_path}/a,more=~/b"
    record["images"]["class_names"][0] = "<script>alert(1)</script>"
    (moved / "run.json").write_text(json.dumps(record))
    export_run(ExportConfig(run=moved, out=tmp_path / "out", push="me/pets"))
    for folder in (tmp_path / "out", tmp_path / "hub" / "me" / "pets"):
        assert names_no_place(folder, tmp_path)
        assert "<script" not in (folder / "README.md").read_text()
        config = json.loads((folder / "config.json").read_text())
        assert config["model"]["data"]["data"] == "folder:my pets"
        assert config["model"]["objective"] == "standard:other=a,more=b"
        assert config["class_names"][0] == "<script>alert(1)</script>"  # it is data there


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("parquet:~/sets/pets/", "parquet:pets"),
        ("folder:C:\\Users\\me\\pets", "folder:pets"),
        ("folder:../me/pets", "folder:pets"),
        ("~me/runs/wide", "wide"),
        ("D:\\runs\\wide", "wide"),
        ("\\\\host\\share\\wide", "wide"),
        ("kd:teacher=/home/me/wide,alpha=0.5", "kd:teacher=wide,alpha=0.5"),
        (Path("/home/me/wide"), "wide"),
        ("hub:me/pets", "hub:me/pets"),
        ("timm:resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        (CELL, CELL),
        (["/home/me/a", 1, None, 0.5, True], ["a", 1, None, 0.5, True]),
    ],
)
def test_of_a_path_the_last_name_is_told(value: Any, told: Any) -> None:
    assert pretrained.without_places({"a": [value]}) == {"a": [told]}


def test_source_loads_the_weights_without_this_library(derived: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["export", "--run", str(derived), "--out", str(out), "--formats", "source"])
    classifier = selfexplain.from_pretrained(out)
    x = (pixels() - classifier.mean_C11) / classifier.std_C11
    torch.save({"x": x, "logits": classifier.model(x).detach()}, out / "expected.pt")
    code = (
        "import sys, torch, safetensors.torch, network\n"
        "net = network.Network().eval()\n"
        "net.load_state_dict(safetensors.torch.load_file('model.safetensors'))\n"
        "expected = torch.load('expected.pt')\n"
        "torch.testing.assert_close(net(expected['x']), expected['logits'])\n"
        "assert not any(name.startswith('selfexplain') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=out, check=True, timeout=120)


def test_card_has_the_numbers_and_metadata_that_the_hub_reads(run: Path, tmp_path: Path) -> None:
    export_run(ExportConfig(run=run, out=tmp_path))
    card = (tmp_path / "README.md").read_text()
    result = json.loads((run / "result.json").read_text())
    metadata = yaml.safe_load(card.split("---")[1])
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    found = {metric["type"]: metric["value"] for metric in metrics}
    assert found["accuracy"] == pytest.approx(result["accuracy"], abs=1e-4)
    assert f"| accuracy | {result['accuracy']:.4f} |" in card


def test_what_is_written_wrong_is_noticed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.export.export

    def other(classifier: torch.nn.Module, *args: Any, **options: Any) -> Any:
        changed = copy.deepcopy(classifier)
        changed.mean_C11.add_(0.5)
        return save(changed, *args, **options)

    monkeypatch.setattr(torch.export, "export", other)
    with pytest.raises(InputError, match="gives other logits than the model"):
        export_run(ExportConfig(run=run, out=tmp_path / "out", formats=("torch_export",)))


class FakeHub:
    """A hub in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private: bool | None = None

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        self.private = private
        (self.folder / name).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        for path in folder_path.iterdir():
            (self.folder / repo_id / path.name).write_bytes(path.read_bytes())
        return type("Commit", (), {"repo_url": f"https://hub/{repo_id}"})


def test_push_and_back(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **options: str(fake.folder / name)
    )
    export_run(ExportConfig(run=run, out=tmp_path / "out", push="me/digits", private=True))
    assert fake.private is True
    classifier = selfexplain.from_pretrained("me/digits")
    expected = selfexplain.from_pretrained(tmp_path / "out")
    assert torch.equal(classifier(pixels()), expected(pixels()))


def test_code_that_a_publisher_names_is_not_run_unasked(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **options: str(tmp_path / "out")
    )
    export_run(ExportConfig(run=run, out=tmp_path / "out"))
    (tmp_path / "code_of_mine.py").write_text(
        "from pathlib import Path\n"
        "from selfexplain.models.build import SmallCNN\n"
        "Path(__file__).with_name('imported').touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = read_json(tmp_path / "out" / "config.json")
    config["model"]["model"] = "code_of_mine:SmallCNN"
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"code_of_mine:SmallCNN.*own_code=True if"):
        selfexplain.from_pretrained("stranger/digits")
    assert not (tmp_path / "imported").exists()
    trusted = selfexplain.from_pretrained("stranger/digits", own_code=True)
    assert (tmp_path / "imported").exists()
    own = selfexplain.from_pretrained(tmp_path / "out")  # a folder of one's own, as ever
    assert torch.equal(own(pixels()), trusted(pixels()))


def test_sizes_of_a_file_do_not_become_source() -> None:
    genotype = load_genotype(CELL)
    for changed in (
        {"channels": "4; import os"},
        {"cells": "1\nraise SystemExit"},
        {"form": 'small"; import os; "'},
        {"num_classes": True},
    ):
        options: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "channels": 4, "cells": 1}
        with pytest.raises(InputError, match="pass whole numbers, and small or imagenet"):
            source_of(genotype, **options | changed)


def test_a_hub_that_cannot_be_reached_is_one_sentence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", unreachable)
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(InputError, match="is written, but could not be uploaded"):
        hub.push_folder(tmp_path, "me/digits")
    with pytest.raises(InputError, match="log in with"):
        pretrained.from_pretrained("me/digits")


BRANCHING = """
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.linear = nn.Linear(in_channels * 64, num_classes)
    def forward(self, x):
        logits = self.linear(x.flatten(1))
        return logits if x.mean() > 0 else 2 * logits

class Bessel(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.linear = nn.Linear(in_channels * 64, num_classes)
    def forward(self, x):
        return self.linear(x.flatten(1)) + torch.special.bessel_j0(x.mean())
"""


def trained(model: str, folder: Path) -> Path:
    data = DataOptions(data="digits", train_size=100)
    training = TrainingOptions(epochs=1, batch_size=50)
    run_training(
        TrainConfig(data=data, training=training, model=model, objective="standard", out=folder)
    )
    return folder


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_a_model_that_cannot_be_traced_is_one_sentence(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its forward pass looks at the data, so that no other format works either."""
    (tmp_path / "own_branching.py").write_text(BRANCHING)
    monkeypatch.syspath_prepend(str(tmp_path))
    run, out = trained("own_branching:Branching", tmp_path / "run"), tmp_path / "out"
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--run", str(run), "--out", str(out), "--formats", form])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"selfexplain: format {form} does not fit this model (")
    assert "data-dependent" in said
    assert "no other does" in said
    assert said.count("\n") == 1
    export_run(ExportConfig(run=run, out=out))  # as the sentence says
    assert selfexplain.from_pretrained(out)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_a_model_that_onnx_lacks_may_be_written_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_bessel.py").write_text(BRANCHING)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = trained("own_bessel:Bessel", tmp_path / "run")
    with pytest.raises(InputError, match="pass --formats torch_export, or leave"):
        export_run(ExportConfig(run=run, out=tmp_path / "out", formats=("onnx",)))


def test_bad_input_is_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no finished run"):
        export_run(ExportConfig(run=tmp_path, out=tmp_path / "out"))
    with pytest.raises(InputError, match="format source writes the network of a genotype"):
        export_run(ExportConfig(run=run, out=tmp_path / "out", formats=("source",)))
    with pytest.raises(InputError, match="pass one that selfexplain export has written"):
        pretrained.from_pretrained(tmp_path / "absent")
    with pytest.raises(InputError, match=r"lacks config\.json"):
        pretrained.from_pretrained(run)
    export_run(ExportConfig(run=run, out=tmp_path / "out"))
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="is not a configuration of selfexplain"):
        pretrained.from_pretrained(tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="pass another --out"):
        export_run(ExportConfig(run=run, out=tmp_path / "file"))
