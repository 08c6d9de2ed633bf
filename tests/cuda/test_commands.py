"""The commands on a GPU, from end to end."""

import json
from pathlib import Path

import pytest
import torch

from selfexplain.cli import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DIGITS = ("--data", "digits", "--train-size", "200", "--batch-size", "50", "--epochs", "2")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["introspective", "standard", "ps_kd", "cs_kd"])
def test_a_run_writes_all_that_the_report_reads(name: str, precision: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("--objective", name, "--precision", precision, "--loggers", "tensorboard")
    main(["train", *DIGITS, *words, "--out", str(out)])
    result = json.loads((out / "result.json").read_text())
    assert result["accuracy"] > 10
    for file in ("album/epoch-0002.safetensors", "predictions.safetensors", "checkpoint.pt"):
        assert (out / file).exists()
    assert (out / "similarity.safetensors").exists()
    assert "cuda" not in (out / "metrics.jsonl").read_text()
    main(["report", str(out), "--out", str(tmp_path / "report.html")])
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_checkpoint_of_the_gpu_continues(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", *DIGITS, "--objective", "introspective", "--out", str(out)]
    main(words)
    whole = json.loads((out / "result.json").read_text())
    (out / "result.json").unlink()
    main([*words, "--resume"])
    again = json.loads((out / "result.json").read_text())
    assert again["accuracy"] == pytest.approx(whole["accuracy"], abs=1.0)


@pytest.mark.parametrize("more", [(), ("--compile",)])
def test_a_run_of_recorded_steps(more: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("--precision", "bf16", "--cuda-graph", "--ema", "0.9", "--clip", "1", *more)
    main(["train", *DIGITS, *words, "--objective", "introspective", "--out", str(out)])
    assert json.loads((out / "result.json").read_text())["accuracy"] > 10


def test_a_comparison_on_one_gpu_by_two_workers(tmp_path: Path) -> None:
    out = tmp_path / "compared"
    words = ("--objectives", "standard", "introspective", "--seeds", "0", "1", "--workers", "2")
    fast = ("--cuda-graph", "--precision", "bf16")
    main(["compare", *DIGITS, *words, *fast, "--out", str(out)])
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert len(rows) == 4
    hardware = json.loads((out / "compare.json").read_text())["environment"]["hardware"]
    assert hardware == torch.cuda.get_device_name()


@pytest.mark.parametrize("space", ["nasbench201", "darts", "pcdarts"])
def test_a_search_and_its_network(space: str, tmp_path: Path) -> None:
    out = tmp_path / "search"
    tiny = ("--init-channels", "8", "--cells", "1" if space == "nasbench201" else "3")
    words = ("--space", space, "--method", "lease", "--audience", "small_cnn", *tiny)
    main(["search", *DIGITS, *words, "--epochs", "1", "--out", str(out)])
    retrained = ("--genotype", str(out / "genotype.json"), "--out", str(tmp_path / "net"), *tiny)
    main(["retrain", *DIGITS, *retrained, "--epochs", "1", "--objective", "introspective"])
    assert (tmp_path / "net" / "result.json").exists()
