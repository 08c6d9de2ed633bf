"""The command line, as a user meets it: in a process of its own, or through `main`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from safetensors.torch import load_file

from selfexplain.cli import main
from selfexplain.data import CORRUPTIONS
from selfexplain.errors import InputError
from selfexplain.recipes.explain import read_images
from selfexplain.recipes.folder import locked

DIGITS = ("--data", "digits", "--batch-size", "50", "--train-size", "200")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "selfexplain", *arguments]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command with bad input says; it must exit with code 2 and one line."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("selfexplain: ")
    assert said.count("\n") == 1
    return said


def train(out: Path, *more: str) -> None:
    main(["train", *DIGITS, "--epochs", "2", "--out", str(out), *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train(out, "--objective", "introspective", "--image-size", "16")
    return out


def test_train_leaves_a_whole_record(trained: Path) -> None:
    assert {p.name for p in trained.iterdir() if p.name != ".lock"} == {
        "run.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "model.safetensors",
        "result.json",
        "predictions.safetensors",
        "similarity.safetensors",
        "album",
    }
    record = json.loads((trained / "run.json").read_text())
    assert record["config"]["seed"] == 0
    assert record["config"]["data"]["train_size"] == 200
    assert record["environment"]["versions"]["torch"] == torch.__version__
    assert record["images"]["class_names"] == [str(k) for k in range(10)]
    result = json.loads((trained / "result.json").read_text())
    assert 0 < result["accuracy"] <= 100
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    options = ["train", *DIGITS, "--epochs", "12", "--objective", "introspective"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    subprocess.run(command(*options, "--out", str(unbroken)), check=True, env=environment)
    process = subprocess.Popen(command(*options, "--out", str(killed)), env=environment)
    log = killed / "metrics.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "result.json").exists()
    subprocess.run(command(*options, "--out", str(killed), "--resume"), check=True, env=environment)
    a, b = (load_file(p / "model.safetensors") for p in (unbroken, killed))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    scores = [json.loads((p / "result.json").read_text()) for p in (unbroken, killed)]
    for score in scores:
        del score["step_seconds"]
    assert scores[0] == scores[1]


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """Ranks claim the folder and train together, and one of them writes and speaks."""
    out = tmp_path / "run"
    objective = ("--objective", "introspective:aggregation=class")
    more = ("--epochs", "1", "--accelerator", "cpu", "--devices", "2", "--out", str(out))
    done = subprocess.run(
        command("train", *DIGITS, *objective, *more), check=True, capture_output=True, text=True
    )
    assert done.stdout.count("Run: ") == 1
    assert (out / "result.json").exists()


def test_compare_writes_the_published_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "compare",
        *DIGITS,
        *("--epochs", "1", "--out", str(tmp_path / "c")),
        *("--objectives", "standard", "introspective:weight=0.1"),
    ]
    main([*arguments, "--seeds", "0"])
    results = json.loads((tmp_path / "c" / "results.json").read_text())
    assert results["schema"] == 1
    assert results["config"]["objectives"] == ["standard", "introspective:weight=0.1"]
    assert set(results["rows"][0]) == {
        *("objective", "seed", "accuracy", "nll", "brier", "ece", "step_seconds", "cost"),
        *("adaptive_ece", "aurc", "excess_aurc", "nll_scaled", "ece_scaled"),
    }
    assert {
        *("objective", "n", "accuracy_mean", "accuracy_std", "difference_mean"),
        *("difference_ci95", "nll_mean", "ece_mean", "cost"),
    } <= set(results["summary"][0])
    assert results["rows"][0]["cost"] == 1
    assert results["summary"][1]["difference_ci95"] is None

    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "c" / "runs").rglob("*")}
    main([*arguments, "--seeds", "0", "1"])
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items() if p.is_file())
    results = json.loads((tmp_path / "c" / "results.json").read_text())
    assert [(r["objective"], r["seed"]) for r in results["rows"]] == [
        ("standard", 0),
        ("introspective:weight=0.1", 0),
        ("standard", 1),
        ("introspective:weight=0.1", 1),
    ]
    a, b = ([r["accuracy"] for r in results["rows"][i::2]] for i in (0, 1))
    assert results["summary"][1]["difference_mean"] == pytest.approx(
        sum(b) / 2 - sum(a) / 2, abs=1e-9
    )
    assert len(results["summary"][1]["difference_ci95"]) == 2
    assert "introspective" in capsys.readouterr().out
    assert "| standard |" in (tmp_path / "c" / "table.md").read_text()
    with Image.open(tmp_path / "c" / "accuracy-cost.png") as picture:
        assert picture.width > 500


def test_robustness_is_scored_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c"
    words = ("--epochs", "3", "--objectives", "standard", "--seeds", "0", "1", "--out", str(out))
    main(["compare", *DIGITS, *words, "--robustness"])
    results = json.loads((out / "results.json").read_text())
    for row in results["rows"]:
        accuracies = row["corruptions"]
        assert set(accuracies) == set(CORRUPTIONS)
        assert row["corrupted_accuracy"] == pytest.approx(sum(accuracies.values()) / 9)
        assert accuracies["contrast-5"] < row["accuracy"]
    mean = sum(row["corrupted_accuracy"] for row in results["rows"]) / 2
    assert results["summary"][0]["corrupted_accuracy_mean"] == pytest.approx(mean)
    assert f"{mean:.1f} ± " in capsys.readouterr().out


def test_folder_is_named_after_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["compare", *DIGITS, "--epochs", "1", "--objectives", "standard"]
    for more in (["--seeds", "0"], ["--seeds", "0", "1"], ["--seeds", "0", "--lr", "0.01"]):
        main([*words, *more])
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2  # seeds may be added, another learning rate is another comparison
    assert all(f.name.startswith("compare-digits-small_cnn-") for f in folders)
    assert {len(list((f / "runs").iterdir())) for f in folders} == {1, 2}


def test_compare_refuses_the_folder_of_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["compare", *DIGITS, "--objectives", "standard", "--seeds", "0", "--out", str(tmp_path)]
    main([*base, "--epochs", "1"])
    said = refused(capsys, *base, "--epochs", "2")
    assert "epochs was 1, is 2" in said


def test_same_seed_same_start_for_every_objective(tmp_path: Path) -> None:
    for name in ("standard", "introspective:weight=0"):
        train(tmp_path / name.partition(":")[0], "--objective", name)
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("standard", "introspective"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_explain_draws_a_picture(trained: Path, tmp_path: Path) -> None:
    for name, mode in (("a.png", "L"), ("b.png", "RGBA")):
        Image.new(mode, (40, 30), 128 if mode == "L" else (200, 10, 10, 255)).save(tmp_path / name)
    out = tmp_path / "picture.png"
    images = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    main(["explain", "--run", str(trained), "--images", *images, "--out", str(out)])
    with Image.open(out) as picture:
        assert picture.width > 500


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
    assert "holds no finished run" in said
    fine = tmp_path / "fine.png"
    Image.new("L", (16, 16)).save(fine)
    said = refused(
        capsys, "explain", "--run", str(trained), "--images", str(fine), "--out", out + ".doc"
    )
    assert "png" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "parquet:absent"), "absent"),
        (("--data", "digit"), "digits"),
        ((*DIGITS, "--epochs", "0"), "epochs is 0; pass a whole number of at least 1"),
        (("--data", "digits", "--batch-size", "0"), "batch_size is 0"),
        (("--data", "digits", "--batch-size", "5000"), "left out (drop_last); pass at most 1438"),
        ((*DIGITS, "--model", "small_cn"), "did you mean small_cnn"),
        ((*DIGITS, "--objective", "introspection"), "pass introspective"),
        (
            (*DIGITS, "--objective", "introspective:kind=grad_cam,layer=blok1,similarity=cosine"),
            "block1",
        ),
        ((*DIGITS, "--introspective.tau", "0"), "tau is 0"),
        (("--data", "digits", "--train-size", "5"), "pass a size from 10"),
        (("--data", "digits", "--validation", "1.5"), "validation is 1.5"),
        ((*DIGITS, "--lr", "1e30", "--objective", "standard"), "pass a smaller --lr"),
        ((*DIGITS, "--accelerator", "cuda", "--devices", "3"), "pass --accelerator cpu"),
        ((*DIGITS, "--model", "torch.nn:Bilinear"), "called as"),
        ((*DIGITS, "--precision", "fp16", "--accelerator", "cpu"), "pass --precision bf16"),
        ((*DIGITS, "--model", "resnet18"), "use larger images"),
        ((*DIGITS, "--lr", "nan"), "lr is nan; pass a finite number"),
        ((*DIGITS, "--clip", "1", "--lr", "1e30"), "pass a smaller --lr"),
        ((*DIGITS, "--introspective.tau", "nan"), "tau is nan"),
        ((*DIGITS, "--seed", "-1"), "seed is -1"),
        ((*DIGITS, "--warmup-epochs", "50"), "warmup_epochs is 50"),
        ((*DIGITS, "--model", ":x"), "cannot be imported"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(capsys, "train", *arguments, "--out", str(tmp_path / "out"))


def test_folder_with_another_run_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "result.json").read_bytes()
    base = ("train", *DIGITS, "--objective", "introspective", "--image-size", "16", "--epochs", "2")
    said = refused(capsys, *base, "--out", str(trained))
    assert "holds this run already; pass --resume to continue it" in said
    said = refused(capsys, *base, "--lr", "0.3", "--out", str(trained))
    assert "lr was 0.1, is 0.3); pass the options it was made with and --resume, or" in said
    said = refused(capsys, *base, "--seed", "1", "--resume", "--out", str(trained))
    assert "seed was 0, is 1); pass the options it was made with, or another --out" in said
    compare = ("compare", *DIGITS, "--objectives", "standard", "--out")
    assert "holds a single run (run.json)" in refused(capsys, *compare, str(trained))
    (tmp_path / "compared" / "runs").mkdir(parents=True)
    (tmp_path / "compared" / "compare.json").write_text("{}")
    said = refused(capsys, *base, "--out", str(tmp_path / "compared"))
    assert "holds a comparison (compare.json)" in said
    assert (trained / "result.json").read_bytes() == before
    (tmp_path / "letter.txt").write_text("mine")
    assert "is not empty" in refused(capsys, *base, "--out", str(tmp_path))


def test_start_that_failed_leaves_the_folder_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = (
        "train",
        *DIGITS,
        "--epochs",
        "1",
        "--model",
        "resnet18",
        "--out",
        str(tmp_path / "run"),
    )
    refused(capsys, *base)
    main([*base, "--image-size", "16", "--objective", "standard"])
    assert (tmp_path / "run" / "result.json").exists()


def test_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    said = refused(capsys, "train", *DIGITS, "--out", str(tmp_path / "file" / "run"))
    assert "cannot be written" in said


def test_device_that_the_machine_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> None:
        raise MisconfigurationException("You requested 3 GPUs, but there is 1")

    monkeypatch.setattr("selfexplain.recipes.launch.Fabric", refuse)
    said = refused(capsys, "train", *DIGITS, "--devices", "3", "--out", str(tmp_path / "run"))
    assert "pass --accelerator cpu" in said


def test_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    with locked(out):
        said = refused(capsys, "train", *DIGITS, "--epochs", "1", "--out", str(out))
    assert "another process is writing" in said
    train(out)  # free again


def test_truncated_checkpoint_stops_the_resumption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train(out)
    (out / "result.json").unlink()
    checkpoint = out / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    said = refused(capsys, "train", *DIGITS, "--epochs", "2", "--resume", "--out", str(out))
    assert "truncated" in said


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "junk\n" + text, "line 1 of "),
        (lambda text: text.replace("\n", "\n[]\n", 1), "line 2 of "),
        (lambda text: '{"loss": 1}\n' + text, "line 1 of "),
        (lambda text: "", "is missing or says of no epoch"),
        (lambda text: None, "is missing or says of no epoch"),
        (lambda text: text.replace("step_seconds", "seconds"), "is missing or says of no epoch"),
    ],
)
def test_damaged_metrics_stop_the_resumption(
    damage: Callable[[str], str | None],
    message: str,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    (out / "result.json").unlink()
    metrics = out / "metrics.jsonl"
    whole = metrics.read_text()
    damaged = damage(whole)
    if damaged is None:
        metrics.unlink()
    else:
        metrics.write_text(damaged)
    options = ("--objective", "introspective", "--image-size", "16", "--epochs", "2")
    resume = ("train", *DIGITS, *options, "--resume", "--out", str(out))
    said = refused(capsys, *resume)
    assert message in said
    assert str(metrics) in said
    metrics.write_text(whole + '{"epoch": 3, "lo')  # torn by a crash
    main(resume)
    assert metrics.read_text() == whole


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


def test_every_flag_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "compare", "explain", "search", "retrain", "lookup", "demo"):
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        text = re.sub("[│╭╰─]", " ", capsys.readouterr().out)
        flags = re.split(r"\n\s+(?=--[a-z])", text)[1:]
        assert flags
        for flag in flags:
            words = flag.split()[2:]  # after the flag and its kind
            explanation = " ".join(words).partition("(default")[0].partition("(required")[0]
            assert len(re.findall("[A-Za-z]{2,}", explanation)) >= 3, flag
