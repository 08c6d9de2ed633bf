"""Networks of genotypes, trained from the command line: the two methods meet here."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from selfexplain.cli import main, parse
from selfexplain.errors import InputError
from selfexplain.experiments.data import side_of
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.fit.model import build_classifier, freeze_unused
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import RetrainConfig
from selfexplain.spaces import build_network, from_string, load_genotype, save_genotype
from selfexplain.spaces.operations import DropPath

DIGITS = ("--data", "digits", "--train-size", "100", "--batch-size", "50", "--epochs", "2")
SKIPS = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
NASBENCH201 = ("--genotype", SKIPS, "--init-channels", "4", "--cells", "1")
DARTS = ("--genotype", "published:DARTS_V2", "--init-channels", "4", "--cells", "1")
AUXILIARY = ("--image-size", "16", "--auxiliary", "0.4")


def retrain(out: Path, *words: str) -> dict[str, Any]:
    main(["retrain", *DIGITS, *words, "--out", str(out)])
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["retrain", *DIGITS, *words])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("selfexplain: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    "words",
    [
        (*NASBENCH201, "--objective", "introspective", "--drop-path", "0.2"),
        (*DARTS, *AUXILIARY, "--objective", "introspective", "--drop-path", "0.2", "--ema", "0.9"),
        (*DARTS, "--objective", "label_smoothing"),
        (*DARTS, *AUXILIARY, "--objective", "mixup:alpha=0.5+dml"),
    ],
)
def test_retrain_and_explain(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = retrain(tmp_path / "run", *words)
    assert 0 < result["accuracy"] <= 100
    assert result["parameters"] > 0
    assert result["multiply_adds"] > 0
    assert "M parameters" in capsys.readouterr().out
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert ("auxiliary" in line) == ("--auxiliary" in words)
    assert ("introspection" in line) == ("introspective" in words)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    pictures = ["--images", str(tmp_path / "a.png"), "--out", str(tmp_path / "b.png")]
    main(["explain", "--run", str(tmp_path / "run"), *pictures])
    assert (tmp_path / "b.png").exists()


def test_a_run_is_rebuilt_as_it_was_trained(tmp_path: Path) -> None:
    words = ("--objective", "introspective:aggregation=class", "--image-size", "16")
    retrain(tmp_path, *DARTS, *words, "--auxiliary", "0.4")
    run = load_run(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("auxiliary.") for name in saved)
    assert all(
        torch.equal(value, saved[name]) for name, value in run.objective.model.state_dict().items()
    )
    assert run.objective.steps == 4
    assert run.objective.class_mean.started


class Stop(Exception):  # noqa: N818
    """Raised to cut a run off."""


@pytest.mark.parametrize("genotype", ["published:DARTS_V2", SKIPS])
def test_a_cut_run_with_drop_path_resumes_to_the_same_weights(
    genotype: str, tmp_path: Path
) -> None:
    def config(name: str, resume: bool = False) -> RetrainConfig:
        small = [*("--init-channels", "4", "--cells", "1", "--drop-path", "0.5", "--epochs", "3")]
        heads = [*AUXILIARY] if genotype.startswith("published") else []
        words = [*DIGITS, "--genotype", genotype, *small, *heads, "--objective", "introspective"]
        again = ["--resume"] if resume else []
        command = parse(["retrain", *words, "--out", str(tmp_path / name), *again])
        assert isinstance(command, RetrainConfig)
        return command

    def stop(done: int, total: int) -> None:
        assert total == 6
        if done == 5:
            raise Stop

    whole = run_training(config("whole"))
    with pytest.raises(Stop):
        run_training(config("cut"), on_step=stop)
    resumed = run_training(config("cut", resume=True))
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    del whole["step_seconds"], resumed["step_seconds"]
    assert whole == resumed


def test_drop_path_grows_from_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    forward = DropPath.forward

    def watched(self: DropPath, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen.append(self.probability)
        return forward(self, x)

    monkeypatch.setattr(DropPath, "forward", watched)
    retrain(tmp_path, *NASBENCH201, "--drop-path", "0.3", "--epochs", "3")
    assert list(dict.fromkeys(seen)) == pytest.approx([0, 0.1, 0.2])


def test_the_genotype_and_not_its_file_is_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_genotype("cell.json", from_string(SKIPS))
    words = ["--init-channels", "4", "--cells", "1"]
    configs = [
        parse(["retrain", *DIGITS, "--genotype", genotype, *words])
        for genotype in ("cell.json", SKIPS, "published:DARTS_V2")
    ]
    assert configs[0] == configs[1]
    names = [config.out.name for config in configs]
    assert names[0].startswith("retrain-digits-nasbench201-")
    assert names[2].startswith("retrain-digits-darts-")
    main(["retrain", *DIGITS, "--genotype", "cell.json", *words])
    run = json.loads((Path("runs") / names[0] / "run.json").read_text())
    assert run["config"]["genotype"] == SKIPS
    Path("cell.json").unlink()
    Image.new("L", (8, 8)).save("a.png")
    main(["explain", "--run", f"runs/{names[0]}", "--images", "a.png", "--out", "b.png"])

    other = [*DARTS, "--out", f"runs/{names[0]}", "--resume"]
    said = refused(capsys, *other)
    assert "genotype is another" in said
    assert len(said) < 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--genotype", "absent.json"), "'absent.json' is not a genotype that can be read"),
        (("--genotype", "published:DARTS"), "did you mean PDARTS or"),
        (("--genotype", "|conv~0|"), "computes 3 nodes"),
        ((*NASBENCH201, "--form", "imagenet"), "pass --form small"),
        ((*NASBENCH201, "--auxiliary", "0.4"), "--auxiliary 0"),
        ((*NASBENCH201, "--auxiliary", "-1"), "auxiliary is -1; pass a number of at least 0"),
        ((*DARTS, "--auxiliary", "nan"), "auxiliary is nan"),
        ((*DARTS, "--auxiliary", "0.4"), "pass an image_size of at least 16"),
        ((*DARTS, *AUXILIARY, "--batch-size", "1"), "--batch-size of at least 2"),
        ((*DARTS, "--drop-path", "1"), "--drop-path is 1; pass a number of at least 0 and below 1"),
        ((*DARTS, "--drop-path", "-0.1"), "--drop-path is -0.1"),
        ((*DARTS, "--init-channels", "5"), "init_channels is 5; pass an even number"),
        ((*DARTS, "--init-channels", "0"), "--init-channels is 0"),
        ((*DARTS, "--cells", "0"), "cells is 0"),
        ((*NASBENCH201, "--image-size", "6"), "pass a multiple of 4"),
        ((*DARTS, "--form", "imagenet"), "pass a multiple of 16"),
        (
            (*NASBENCH201, "--image-size", "4", "--objective", "introspective"),
            "has a single position: use larger images",
        ),
        ((*NASBENCH201, "--objective", "introspection"), "pass introspective"),
        ((*NASBENCH201, "--seed", "-1"), "seed is -1"),
    ],
)
def test_bad_input_is_one_sentence(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *words, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_images_that_are_not_square() -> None:
    with pytest.raises(InputError, match="the images are 8 x 6 pixels; pass --image-size"):
        side_of((1, 8, 6))


DEAD_END = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|skip_connect~0|none~1|none~2|"


def test_every_weight_that_asks_for_a_gradient_gets_one() -> None:
    """Several processes wait for each of them."""
    network = build_classifier(
        {"genotype": DEAD_END, "init_channels": 4, "cells": 1, "form": "small", "auxiliary": 0.0},
        num_classes=3,
        shape_CHW=(1, 8, 8),
    )
    network(torch.randn(4, 1, 8, 8)).sum().backward()
    assert all(p.requires_grad == (p.grad is not None) for p in network.parameters())
    assert not all(p.requires_grad for p in network.parameters())


def test_frozen_are_those_that_get_no_gradient() -> None:
    torch.manual_seed(0)
    network = build_network(
        load_genotype(DEAD_END), num_classes=3, in_channels=1, image_size=8, channels=4, cells=2
    )
    state, mode = copy.deepcopy(network.state_dict()), network.training
    frozen = freeze_unused(network, (1, 8, 8))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert network.training == mode
    network(torch.randn(4, 1, 8, 8)).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert frozen == without
    assert len(frozen) == 3 * 6  # the weight, scale and shift of one operation in each cell
