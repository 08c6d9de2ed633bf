"""`selfexplain search` as a user meets it, on tiny supernets and few images."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments.data import load
from selfexplain.experiments.options import DataOptions, to_dict
from selfexplain.experiments.search.loop import SearchProgress
from selfexplain.experiments.search.run import run_search
from selfexplain.experiments.search.setup import (
    build_search,
    collapsed,
    mean_entropy,
    operation_weights,
    skip_connections,
)
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.lease import LeaSEOptions
from selfexplain.lease.random_search import RandomBest
from selfexplain.report import cell_text
from selfexplain.spaces import from_string, load_genotype, random_genotype
from selfexplain.spaces.darts import ImageNetStem
from selfexplain.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

TINY = ["--data", "digits", "--train-size", "40", "--validation", "0.03", "--batch-size", "20"]
TINY += ["--init-channels", "4", "--epochs", "2", "--seed", "1"]


def tiny(out: Path, **options: Any) -> SearchConfig:
    data = DataOptions(data="digits", train_size=40, validation=0.03)
    return SearchConfig(
        **{"data": data, "batch_size": 20, "init_channels": 4, "cells": 1, "epochs": 2}
        | {"warmup_epochs": 0, "out": out}
        | options
    )


def search(*arguments: str) -> None:
    main(["search", *TINY, *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        search(*arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


IN_EVERY_SPACE = [
    *(("nasbench201", method) for method in ("lease", "sanas", "darts1", "darts2", "random")),
    *(("darts", method) for method in ("lease", "random")),
    *(("pcdarts", method) for method in ("lease", "darts1")),
]


@pytest.mark.parametrize(("space", "method"), IN_EVERY_SPACE)
def test_every_method_in_every_space(
    space: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search"
    size = {
        "nasbench201": ["--cells", "1"],
        # Two kinds of cells take three, which are slow: one step an epoch.
        "darts": ["--cells", "3", "--batch-size", "40"],
        "pcdarts": ["--cells", "3", "--batch-size", "40", "--init-channels", "8"],
    }
    search("--space", space, "--method", method, "--out", str(out), *size[space])
    result = json.loads((out / "result.json").read_text())
    genotype = load_genotype(str(out / "genotype.json"))
    assert from_string(result["genotype"]) == genotype
    assert genotype.family == ("nasbench201" if space == "nasbench201" else "darts")
    assert (out / "cell.svg").read_text().startswith("<svg")
    printed = capsys.readouterr().out
    assert cell_text(genotype) in printed
    if method == "random":
        return
    lines = [json.loads(line) for line in (out / "search.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    levels = {"explainer", "validation"}
    if method in ("lease", "sanas"):
        levels |= {"delta_1", "audience"}
    assert set(lines[-1]["losses"]) == levels
    assert 0 <= lines[-1]["validation_accuracy"] <= 100
    assert 0 <= lines[-1]["skip_share"] <= 1
    assert lines[-1]["entropy"] > 0
    for rows in lines[-1]["weights"].values():
        assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in rows)
    assert (out / "architecture.png").stat().st_size > 1000


def test_photographs_are_searched_on_in_the_imagenet_form(tmp_path: Path) -> None:
    form, size = ["--form", "imagenet"], ["--image-size", "32", "--cells", "3"]
    out, retrained = tmp_path / "search", tmp_path / "retrained"
    search("--space", "darts", "--method", "darts1", *form, *size, "--out", str(out))
    few = ["--data", "digits", "--train-size", "40", "--batch-size", "20", "--epochs", "1"]
    found = ["--genotype", str(out / "genotype.json"), "--init-channels", "4"]
    main(["retrain", *few, *found, *form, *size, "--out", str(retrained)])
    assert json.loads((out / "run.json").read_text())["config"]["form"] == "imagenet"
    assert "form" not in to_dict(tiny(out))  # as in searches before there was a choice
    assert json.loads((retrained / "result.json").read_text())["parameters"] > 0


def test_the_form_reaches_every_network_that_a_search_builds(tmp_path: Path) -> None:
    data = DataOptions(data="digits", image_size=32)
    config = tiny(tmp_path, data=data, space="darts", form="imagenet", cells=3, epochs=5)
    images, cpu = load(config.data), torch.device("cpu")
    search = build_search(config, images, torch.ones(1), cpu)
    best = build_search(replace(config, method="random_best"), images, torch.ones(1), cpu)
    assert isinstance(best, RandomBest)
    networks: list[Any] = [
        search.supernet.network,
        best.supernet.network,
        best.build(random_genotype("darts")),
    ]
    assert all(isinstance(network.stem, ImageNetStem) for network in networks)


def test_a_search_that_is_cut_and_resumed_is_the_unbroken_one(tmp_path: Path) -> None:
    whole = run_search(tiny(tmp_path / "whole", epochs=3))
    seen: list[int] = []

    def cut(done: int, total: int) -> None:
        seen.append(done)
        if done == 3:  # in the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(tiny(tmp_path / "cut", epochs=3), on_step=cut)
    resumed = run_search(tiny(tmp_path / "cut", epochs=3, resume=True), on_step=lambda *_: None)
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "cut")]
    pairs = list(zip(*(_flat(state["search"]) for state in states), strict=True))
    assert len(pairs) > 100
    assert all(torch.equal(a, b) for a, b in pairs)
    whole.pop("step_seconds")
    resumed.pop("step_seconds")
    assert whole == resumed
    lines = (tmp_path / "cut" / "search.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for item in items for tensor in _flat(item)]


def test_a_crashed_search_keeps_its_finished_epochs(tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        if done == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        run_search(tiny(tmp_path / "s"), on_step=kill)
    assert load_checkpoint(tmp_path / "s" / "checkpoint.pt")["epochs_done"] == 1
    with pytest.raises(InputError, match="pass --resume to continue it"):
        run_search(tiny(tmp_path / "s"))
    with pytest.raises(InputError, match="seed was 0, is 5"):
        run_search(tiny(tmp_path / "s", seed=5, resume=True))
    assert run_search(tiny(tmp_path / "s", resume=True))["epochs"] == 2


def test_a_search_stopped_in_its_first_epoch_starts_again(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for resume in (False, False, True):  # the same command again, with and without --resume
        with pytest.raises(KeyboardInterrupt):
            run_search(tiny(tmp_path / "s", resume=resume), on_step=stop)
    assert run_search(tiny(tmp_path / "s", resume=True))["epochs"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "one_sided"},
        {"control": "saliency"},
        {"shown": "emphasis"},
        {"gradient_path": "explainer_only"},
        {"eps": 0.1},
        {"lambda_": 3.0},
        {"gamma": 3.0},
        {"attack": "plain"},
        {"explanation_steps": 2},
    ],
    ids=str,
)
def test_every_option_reaches_the_search(options: dict[str, Any], tmp_path: Path) -> None:
    weights = []
    for name, chosen in (("default", {}), ("other", options)):
        run_search(tiny(tmp_path / name, options=LeaSEOptions(**chosen), epochs=1, warmup_epochs=0))
        state = load_checkpoint(tmp_path / name / "checkpoint.pt")
        weights.append(state["search"]["architecture"]["cell"])
    assert not torch.equal(*weights)


def test_in_the_warm_up_the_architecture_rests(tmp_path: Path) -> None:
    run_search(tiny(tmp_path / "s", warmup_epochs=1))
    lines = [json.loads(line) for line in (tmp_path / "s/search.jsonl").read_text().splitlines()]
    assert "validation" not in lines[0]["losses"]
    assert "validation" in lines[1]["losses"]
    assert lines[0]["weights"] != lines[1]["weights"]


def test_skip_collapse_is_measured_warned_about_and_can_stop_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    skips = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|none~1|none~2|"
    good = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
    assert skip_connections(from_string(skips)) == (4, 6)
    assert collapsed(from_string(skips))
    assert not collapsed(from_string(good))
    cells = iter([good, good, skips, skips])
    from selfexplain.lease import ArchitectureSearch

    monkeypatch.setattr(ArchitectureSearch, "genotype", lambda self: from_string(next(cells)))
    with monkeypatch.context() as patch:  # which would draw cells, too
        cell = {"genotype": good, "skip_share": 0.25, "weights": {"cell": [[0.2] * 5] * 6}}
        patch.setattr(SearchProgress, "_state_of_cell", lambda self: cell)
        result = run_search(tiny(tmp_path / "s", epochs=3, stop_at_skips=3))
    assert (result["epochs"], result["stopped_early"]) == (2, True)
    lines = (tmp_path / "s" / "search.jsonl").read_text().splitlines()
    assert result["validation_accuracy"] == json.loads(lines[0])["validation_accuracy"]
    assert result["genotype"] == good  # the one before
    monkeypatch.setattr(ArchitectureSearch, "genotype", lambda self: from_string(skips))
    search("--cells", "1", "--out", str(tmp_path / "t"))
    assert "Warning: 4 of its 6 edges are skip connections" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eps", "0"], "--eps is 0; pass a number above 0"),
        (["--lambda", "-1"], "lambda is -1"),
        (["--gamma", "-1"], "gamma is -1"),
        (["--lambda", "0", "--gamma", "0"], "no explanation reaches the architecture"),
        (["--batch-size", "500"], "fewer than a batch of 500"),
        (["--space", "darts", "--image-size", "6", "--cells", "3"], "multiple of"),
        (["--audience", "resnet19"], "there is no model 'resnet19'"),
        (["--warmup-epochs", "2"], "pass 0 to 1"),
        (["--epochs", "0"], "epochs is 0"),
        (["--stop-at-skips", "0"], "--stop-at-skips is 0"),
        (["--method", "sanas", "--gradient-path", "explainer_only"], "pass full or no_explanation"),
        (["--validation", "1"], "validation is 1"),
        (["--method", "darts2", "--control", "saliency"], "has no explanation and no audience"),
        (["--method", "darts1", "--mode", "exact"], "needs no hypergradient"),
        (["--method", "random", "--stop-at-skips", "2"], "method random has none"),
        (["--control", "random_delta", "--attack", "plain"], "pass --attack normalised"),
        (["--form", "imagenet"], "has no imagenet form; pass --form small"),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search"
    assert message in refused(capsys, "--cells", "1", "--out", str(out), *arguments)
    assert not (out / "result.json").exists()


def test_an_audience_of_other_classes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_audience.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes + 1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    error = refused(
        capsys, "--cells", "1", "--audience", "own_audience:build", "--out", str(tmp_path / "s")
    )
    assert "returns shape (2, 11) for 2 images of 10 classes" in error


def test_how_undecided_a_search_is() -> None:
    architecture = {"cell": torch.zeros(3, 2), "cell_edges": torch.zeros(3)}
    weights = operation_weights(architecture)
    assert {name: each.tolist() for name, each in weights.items()} == {"cell": [[0.5, 0.5]] * 3}
    assert mean_entropy(weights) == pytest.approx(math.log(2))
