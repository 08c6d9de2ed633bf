"""Folders of runs: whose they are, and what becomes of damaged ones."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers.command_line import DIGITS, refused, train

from selfexplain.cli import main
from selfexplain.experiments.run_dir import locked

pytestmark = pytest.mark.slow


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
        (lambda text: "", "is missing or has no time per step"),
        (lambda text: None, "is missing or has no time per step"),
        (lambda text: '{"epoch": 1, "seconds": 0.5}\n', "is missing or has no time per step"),
        (lambda text: text.replace('"loss": ', '"loss": 1', 1), "does not match the SHA-256"),
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
