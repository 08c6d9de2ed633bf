"""Users' own models: those that do not fit, and those whose code changed."""

import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.helpers.command_line import DIGITS, refused, train

from selfexplain.cli import main

OWN_MODELS = """
from torch import nn

def no_pooling(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, num_classes))

def flat(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(144, num_classes))

def maps(num_classes, in_channels):
    return nn.Conv2d(in_channels, num_classes, 3)

def three_channels(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Names(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, num_classes))

    def forward(self, x):
        return {"logits": self.net(x)}

def names(num_classes, in_channels):
    return Names(num_classes, in_channels)

def frozen(num_classes, in_channels):
    return no_pooling(num_classes, in_channels).requires_grad_(False)

def broken(num_classes, in_channels):
    net = no_pooling(num_classes, in_channels)
    net[1].weight.data[0, 0] = float("nan")
    return net

def few_classes(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, 4))
"""


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no_pooling", "grad_cam"),
        ("names", "returns a dict; it must return one tensor of logits"),
        ("maps", "must return logits of shape (2, 10)"),
        ("three_channels", "cannot take images of shape (1, 8, 8)"),
        ("few_classes", "10 classes"),
        ("frozen", "no parameter that can be trained"),
        ("broken", "the model's '1.weight' contains NaN or infinite values"),
    ],
)
def test_own_models_that_do_not_fit(
    factory: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own_nets.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    out = ("--out", str(tmp_path / "out"))
    words = (*DIGITS, "--model", f"own_nets:{factory}", *out)
    assert message in refused(capsys, "train", *words)
    if factory != "no_pooling":  # which is fine for the standard objective
        assert message in refused(capsys, "compare", *words, "--objectives", "standard")
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_explain_a_run_without_a_pooled_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_flat.py").write_text(OWN_MODELS.replace("import nn", "import nn  # flat"))
    monkeypatch.syspath_prepend(str(tmp_path))
    train(tmp_path / "run", "--objective", "standard", "--model", "own_flat:flat")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    words = ["--images", str(tmp_path / "a.png"), "--out", str(tmp_path / "b.png")]
    main(["explain", "--run", str(tmp_path / "run"), "--kind", "grad_cam", *words])
    assert (tmp_path / "b.png").exists()


WIDTH_OF_NET = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, {width}, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear({width}, num_classes),
    )
"""


@pytest.mark.parametrize("objective", ["introspective", "standard"])
def test_model_whose_code_changed_is_one_sentence(
    objective: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, out, image = f"own_width_{objective}", tmp_path / "run", tmp_path / "image.png"
    (tmp_path / f"{module}.py").write_text(WIDTH_OF_NET.format(width=4))
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ("--model", f"{module}:net", "--objective", objective)
    train(out, *options)
    Image.new("L", (8, 8)).save(image)
    exec(WIDTH_OF_NET.format(width=16), vars(sys.modules[module]))
    explain = ("explain", "--run", str(out), "--images", str(image), "--out", f"{image}.svg")
    export = ("export", "--run", str(out), "--out", str(tmp_path / "export"))
    resume = ("train", *DIGITS, "--epochs", "2", *options, "--resume", "--out", str(out))
    for command_line in (explain, export):
        said = refused(capsys, *command_line)
        assert "size mismatch for " in said
        assert "put the code back" in said
        assert str(out) in said
    (out / "result.json").unlink()
    said = refused(capsys, *resume)
    assert "checkpoint.pt cannot be loaded (size mismatch for " in said
