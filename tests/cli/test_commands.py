"""The command line, as a user meets it: in a process of its own, or through `main`."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from safetensors.torch import load_file
from tests.helpers.command_line import DIGITS, command, refused, train

from selfexplain.cli import main
from selfexplain.data import CORRUPTIONS
from selfexplain.files import read_json

pytestmark = pytest.mark.slow


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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in this process (conftest.py)
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    process = subprocess.Popen(command(*options, "--out", str(killed)), env=environment)
    log = killed / "metrics.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "result.json").exists()
    main([*options, "--out", str(killed), "--resume"])
    main([*options, "--out", str(unbroken)])
    a, b = (load_file(p / "model.safetensors") for p in (unbroken, killed))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    scores = [read_json(p / "result.json") for p in (unbroken, killed)]
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
        *("adaptive_ece", "aurc", "excess_aurc", "nll_scaled", "ece_scaled", "cost_ci95"),
    }
    assert results["rows"][0]["cost_ci95"] == [1, 1]
    low, high = results["rows"][1]["cost_ci95"]
    assert low <= results["rows"][1]["cost"] <= high
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


def test_same_seed_same_start_for_every_objective(tmp_path: Path) -> None:
    for name in ("standard", "introspective:weight=0"):
        train(tmp_path / name.partition(":")[0], "--objective", name)
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("standard", "introspective"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "parquet:absent"), "absent"),
        (("--data", "digit"), "digits"),
        ((*DIGITS, "--epochs", "0"), "epochs is 0; pass a whole number of at least 1"),
        (("--data", "digits", "--batch-size", "0"), "--batch-size is 0"),
        (
            ("--data", "digits", "--batch-size", "5000"),
            "incomplete batch; pass a batch_size of at most 1438",
        ),
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
        ((*DIGITS, "--warmup-epochs", "50"), "--warmup-epochs is 50"),
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


def test_device_that_the_machine_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> None:
        raise MisconfigurationException("You requested 3 GPUs, but there is 1")

    monkeypatch.setattr("lightning_fabric.Fabric", refuse)
    said = refused(capsys, "train", *DIGITS, "--devices", "3", "--out", str(tmp_path / "run"))
    assert "pass --accelerator cpu" in said


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("label_smoothing", "label_smoothing:smoothing=0.1"),
        ("mixup+standard", "mixup:alpha=1+standard"),
        ("introspective:weight=0.5,kind=cam", "introspective:kind=cam,weight=0.5"),
    ],
)
def test_two_spellings_of_one_objective_are_not_compared(
    one: str, other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compare", *DIGITS, "--objectives", "standard", one, other)
    said = refused(capsys, *words, "--out", str(tmp_path / "out"))
    assert f"{one!r} and {other!r} are one objective" in said
    assert not (tmp_path / "out").exists()
