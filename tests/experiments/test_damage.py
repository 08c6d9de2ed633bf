"""Records that are damaged, whatever the damage: one sentence that names the file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from selfexplain import cli as commands
from selfexplain.errors import InputError
from selfexplain.experiments.compare.compare import timed_costs
from selfexplain.experiments.export import _card
from selfexplain.experiments.fit.pretrained import from_pretrained, write_config
from selfexplain.experiments.read_records import (
    NEEDED,
    SEARCHES,
    STUDY,
    genotype_of,
    read_comparison,
    read_own_result,
)
from selfexplain.experiments.read_runs import read_record, read_snapshots
from selfexplain.experiments.report import ReportConfig, read_search, sections_of, write_report
from selfexplain.experiments.run_dir import read_finished, version
from selfexplain.files import read_json, write_json, write_tensors
from selfexplain.models import build_model
from selfexplain.records import Flag, Number, misfit
from selfexplain.report.html import page
from selfexplain.report.sections.classes import similarity_of
from selfexplain.spaces import load_genotype

pytestmark = pytest.mark.slow

CELL = "|none~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_3x3~2|"
ROW = [0.2] * 5
DATA = {"data": "digits", "validation": 0.0}
TRAINING = {"epochs": 2, "batch_size": 50}


def training(folder: Path) -> Path:
    """What `selfexplain train` leaves, of three classes, without having trained."""
    config = {
        "objective": "introspective",
        "seed": 0,
        "model": "small_cnn",
        "data": DATA,
        "training": TRAINING,
        "options": {"introspective": {"control": "none"}},
    }
    images = {
        "class_names": ["a", "b", "c"],
        "shape": [1, 8, 8],
        "mean": [0.5],
        "std": [0.25],
    }
    about = {"versions": {"selfexplain": "0.1.0"}, "hardware": "a machine", "commit": None}
    write_json(folder / "run.json", {"config": config, "images": images, "environment": about})
    scores = dict.fromkeys(NEEDED, 0.5) | {"objective": "introspective", "seed": 0}
    write_json(folder / "result.json", scores)
    lines = [json.dumps({"epoch": n, "loss": 1.0, "step_seconds": 0.1}) for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    predictions = {"logits": torch.eye(3), "labels": torch.tensor([0, 1, 2])}
    write_tensors(folder / "predictions.safetensors", predictions)
    similarity = {"similarity": torch.rand(3, 3), "count": torch.tensor([1, 1, 1])}
    write_tensors(folder / "similarity.safetensors", similarity)
    album = {"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "labels": torch.tensor([0, 2])}
    write_tensors(folder / "album" / "images.safetensors", album)
    page = {
        "probabilities": torch.rand(2, 3),
        "target": torch.rand(2, 3),
        "classes": torch.tensor([[0, 1], [2, 1]]),
        "maps": torch.rand(2, 2, 4, 4),
    }
    write_tensors(folder / "album" / "epoch-0001.safetensors", page)
    (folder / "model.safetensors").touch()  # what says that the run is finished
    return folder


def search(folder: Path) -> Path:
    """What `selfexplain search --method lease` leaves."""
    config = {
        "method": "lease",
        "space": "nasbench201",
        "seed": 0,
        "epochs": 1,
        "batch_size": 5,
        "rates": {},
        "options": {"control": "none", "shown": "product", "gradient_path": None, "eps": 0.03},
    }
    images = {"train": 10, "class_names": ["a", "b"]}
    write_json(folder / "run.json", {"config": config, "images": images})
    found = {"seed": 0, "epochs": 1, "skips": 1, "edges": 6, "collapsed": False, "genotype": CELL}
    write_json(folder / "result.json", found)
    line = {
        "epoch": 1,
        "losses": {"explainer": 1.0, "audience": 1.0, "validation": None},
        "validation_accuracy": 50.0,
        "step_seconds": 0.1,
        "skip_share": 0.2,
        "genotype": CELL,
        "weights": {"cell": [ROW] * 6},
        "alphas": {"cell": [ROW] * 6},
    }
    (folder / "search.jsonl").write_text(json.dumps(line) + "\n")
    album = {"images": torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "labels": torch.tensor([1])}
    write_tensors(folder / "album" / "images.safetensors", album)
    shown = {"delta": torch.rand(1, 1, 2, 2), "explained": torch.rand(1, 1, 2, 2)}
    write_tensors(folder / "album" / "epoch-0001.safetensors", shown)
    cell = {"name": "a", "test": 70.0, "validation": 69.0, "seed_std": None, "rank": 9}
    cell |= {"tied": 0, "percentile": 25.0, "params_m": 0.07, "cells": 12}
    write_json(folder / "lookup.json", {"cells": [cell]})
    return folder


def comparison(folder: Path) -> Path:
    """What `selfexplain study-kd` leaves, but for its runs."""
    row = {"n": 2, "accuracy_mean": 90.0, "accuracy_std": 0.5, "nll_mean": 0.3, "nll_std": None}
    summary = {"objective": "standard", "difference_mean": 0.0, "difference_ci95": None, **row}
    summary |= {"ece_mean": 2.0, "ece_std": None, "cost": 1.0}
    config = {"objectives": ["standard", "kd"], "seeds": [0, 1], "data": DATA}
    results = {"config": config, "summary": [summary, summary | {"objective": "kd"}]}
    write_json(folder / "results.json", results)
    gain = {"part": "full", "gain_mean": 0.5, "gain_ci95": [0.0, 1.0], "share": None}
    gain |= {"share_ci95": None, **row}
    write_json(folder / "study.json", {"config": config, "rows": [gain | {"part": "plain"}, gain]})
    return folder


def searches(folder: Path) -> Path:
    """What `selfexplain search --seeds` leaves, but for its searches."""
    row = {"seed": 0, "skips": 1, "edges": 6, "collapsed": False, "epochs": 2}
    row |= {"validation_accuracy": 50.0, "step_seconds": 0.1}
    summary = {"n": 1, "different_cells": 1, "collapsed": 0, "skips_mean": 1.0, "skips_std": None}
    summary |= {"validation_accuracy_mean": 50.0, "validation_accuracy_std": None}
    write_json(folder / "searches.json", {"rows": [row], "summary": summary})
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "training": training,
    "search": search,
    "comparison": comparison,
    "searches": searches,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of records; what a test damages, it puts back."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


def report(folder: Path) -> str:
    return page("report", sections_of(folder), summary="")


def read(folder: Path) -> None:
    """What the report reads of a folder, without drawing it; and the card, of a training."""
    if (folder / "searches.json").exists():
        read_json(folder / "searches.json", SEARCHES)
    elif (folder / "study.json").exists():
        read_json(folder / "study.json", STUDY)
        read_comparison(folder / "results.json")
    elif (folder / "metrics.jsonl").exists():
        similarity_of(read_record(folder))
        read_snapshots(folder)
        _card(read_finished(folder))
    else:
        read_search(folder)


def nothing_but_sentences(reader: Callable[[Path], Any], folder: Path, damaged: Path) -> bool:
    """Whether a reader refuses; whatever it says can be printed, and is no traceback."""
    try:
        reader(folder)
    except InputError as error:
        said = str(error)
    else:
        return False
    assert damaged.name in said or str(damaged.parent) in said
    assert len(said) < 800
    said.encode()
    return True


JSON_FILES = [
    ("training", "run.json"),
    ("training", "result.json"),
    ("training", "metrics.jsonl"),
    ("search", "run.json"),
    ("search", "result.json"),
    ("search", "search.jsonl"),
    ("search", "lookup.json"),
    ("comparison", "results.json"),
    ("comparison", "study.json"),
    ("searches", "searches.json"),
]
TENSOR_FILES = [
    ("training", "predictions.safetensors"),
    ("training", "similarity.safetensors"),
    ("training", "album/images.safetensors"),
    ("training", "album/epoch-0001.safetensors"),
    ("search", "album/images.safetensors"),
    ("search", "album/epoch-0001.safetensors"),
]
BYTES = {
    "empty": b"",
    "BOM": b"\xef\xbb\xbf{}\n",
    "UTF-16": '{"epoch": 1}\n'.encode("utf-16"),
    "no text": bytes(range(256)) + b"\n",
    "deep": b'{"epoch": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n",
    "many digits": b'{"epoch": ' + b"9" * 5000 + b"}\n",
    "huge": b'{"epoch": 1e999}\n',
    "twice": b'{"epoch": 1, "epoch": 2}\n',
    "half": b'{"epoch": 1, "lo\n',
    "null": b"null\n",
    "list": b"[]\n",
    "none": b"{}\n",
}


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize(("folder", "name"), JSON_FILES + TENSOR_FILES[:1])
def test_other_bytes(folder: str, name: str, kind: str, folders: dict[str, Path]) -> None:
    path = folders[folder] / name
    whole = path.read_bytes()
    try:
        path.write_bytes(BYTES[kind])
        refused = nothing_but_sentences(report, folders[folder], path)
        # An empty log, and what stands before a line's end, are those of a run that was stopped.
        assert refused or (name.endswith("jsonl") and kind in ("empty", "many digits", "huge"))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(("folder", "name"), JSON_FILES[:1] + JSON_FILES[2:3] + TENSOR_FILES[:1])
@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_no_file_at_all(folder: str, name: str, kind: str, tmp_path: Path) -> None:
    """A fifo is not waited for."""
    whole = MAKERS[folder](tmp_path / "run")
    (whole / name).unlink()
    (whole / name).mkdir() if kind == "folder" else os.mkfifo(whole / name)
    assert nothing_but_sentences(report, whole, whole / name)


VALUES: tuple[Any, ...] = (
    None, "x", "", [], {}, -1, 1.5, 10**400, 1e308, float("nan"), True, "a" * 100_000, "\ud800",
    [None], {"a": 1}, [[]], "$x_{$", "<b>&", [1, 2, 3, 4],
)  # fmt: skip


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a record; of lists the first."""
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(min(1, len(value))))
    inner = [found for key in keys for found in places(value[key], (*place, key))]
    return [(*place, key) for key in keys] + [p for p in inner if len(p) > len(place) + 1]


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A record with another value at a place; without it if that is Ellipsis."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return copy


@pytest.mark.parametrize(("folder", "name"), JSON_FILES)
def test_other_values_at_every_place(folder: str, name: str, folders: dict[str, Path]) -> None:
    """Each field in turn is missing or another; the values go round the places."""
    path = folders[folder] / name
    whole = path.read_text()
    record = json.loads(whole.splitlines()[0] if name.endswith("jsonl") else whole)
    refused = 0
    try:
        for i, place in enumerate(places(record)):
            for new in (..., VALUES[i % len(VALUES)]):
                text = json.dumps(changed(record, place, new))
                path.write_text(f"{text}\n")
                reader = report if new is ... else read  # drawing takes its time
                refused += nothing_but_sentences(reader, folders[folder], path)
    finally:
        path.write_text(whole)
    assert refused > len(places(record)) / 3


def damages(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tensor in other shapes, types and values."""
    return {
        "no rows": tensor[:0],
        "flat": tensor.flatten(),
        "one more dimension": tensor[None],
        "twice": torch.cat([tensor, tensor]),
        "NaN": torch.full_like(tensor.float(), torch.nan),
        "true and false": tensor.bool(),
        "out of range": tensor.long() + 2**40,
        "below 0": -tensor.long() - 1,
        "as other numbers": tensor.long() if tensor.is_floating_point() else tensor.double(),
        "bfloat16": tensor.bfloat16(),
    }


@pytest.mark.parametrize(("folder", "name"), TENSOR_FILES)
def test_other_tensors(folder: str, name: str, folders: dict[str, Path]) -> None:
    path = folders[folder] / name
    whole = path.read_bytes()
    tensors = load_file(path)
    refused = 0
    try:
        for field, tensor in tensors.items():
            save_file({k: v for k, v in tensors.items() if k != field}, path)
            assert nothing_but_sentences(read, folders[folder], path)
            for other in damages(tensor).values():
                save_file(tensors | {field: other.contiguous().clone()}, path)
                refused += nothing_but_sentences(read, folders[folder], path)
    finally:
        path.write_bytes(whole)
    assert refused >= 5 * len(tensors)


def test_the_records_are_sound(folders: dict[str, Path]) -> None:
    """What is damaged above is read without a word before."""
    for folder in folders.values():
        assert "<h2" in report(folder)


def test_a_result_in_a_runs_own_folder_is_that_runs(folders: dict[str, Path]) -> None:
    path = folders["training"] / "result.json"
    assert read_own_result(path, "introspective", 0)["accuracy"] == 0.5
    for objective, seed, field in (("standard", 0, "objective"), ("introspective", 1, "seed")):
        with pytest.raises(InputError, match=f"result.json is damaged: {field} is "):
            read_own_result(path, objective, seed)


def test_classes_and_logits_that_disagree(folders: dict[str, Path], tmp_path: Path) -> None:
    """A label of 2^40 would ask for a matrix of that many rows."""
    folder = shutil.copytree(folders["training"], tmp_path / "run")
    labels = {"logits": torch.eye(3), "labels": torch.tensor([0, 1, 2**40])}
    write_tensors(folder / "predictions.safetensors", labels)
    with pytest.raises(InputError, match="labels go from 0 to 1099511627776, and the run has 3"):
        report(folder)
    write_tensors(folder / "predictions.safetensors", {**labels, "logits": torch.zeros(3, 9)})
    with pytest.raises(InputError, match=r"logits is float32 of shape \(3, 9\), and must be float"):
        report(folder)


def test_an_exported_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["training"], tmp_path / "run")
    write_config(folder / "config.json", read_finished(folder), "0" * 64)
    whole = read_json(folder / "config.json")
    for place in places(whole):
        for new in (..., None, "x", -1, [], 1e308):
            if place[0] in ("schema", "library"):
                continue
            (folder / "config.json").write_text(json.dumps(changed(whole, place, new)))
            with pytest.raises(InputError):  # if not for this, for weights that are none
                from_pretrained(folder)


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "wrn28_10"},
        {"class_names": [str(k) for k in range(300_000)]},
        {"image_shape": [65536, 8, 8]},
        {"model": None, "init_channels": 4096, "cells": 500},
    ],
)
def test_a_configuration_that_asks_for_more_than_the_weights_hold(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's: no memory is taken for what the file of weights does not fill."""
    model = build_model("small_cnn", num_classes=3, in_channels=1)
    write_tensors(tmp_path / "model.safetensors", model.state_dict())
    images = {"class_names": ["a", "b", "c"], "image_shape": [1, 8, 8], "mean": [0.5], "std": [1]}
    config: dict[str, Any] = {"model": "small_cnn", **asked}
    if config["model"] is None:
        cell = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
        config = {**config, "genotype": cell, "form": "small", "auxiliary": 0.0}
        del config["model"]
    record = {**images, **{name: value for name, value in asked.items() if name in images}}
    channels = record["image_shape"][0]
    record |= {"mean": [0.5] * channels, "std": [1.0] * channels, "model": config}
    write_json(tmp_path / "config.json", {**record, "image_shape": record["image_shape"]})
    taken = []
    allocated = torch.nn.Parameter.__new__

    def watched(cls: Any, data: torch.Tensor, *rest: Any, **more: Any) -> Any:
        taken.append(0 if data.is_meta else data.numel())
        return allocated(cls, data, *rest, **more)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", watched)
    with pytest.raises(InputError, match=r"model\.safetensors cannot be loaded \((it holds|no t)"):
        from_pretrained(tmp_path)
    assert sum(taken) == 0


def test_an_exported_configuration_is_not_read_whatever_its_size(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match=r"config\.json has 1074 MB, and a configuration has at"):
        from_pretrained(tmp_path)


def test_costs_that_are_none_are_measured_anew(tmp_path: Path) -> None:
    costs = {"a": {"step_seconds": 0.1, "cost": 1.0}, "b": {"step_seconds": -1.0, "cost": 1.0}}
    write_json(tmp_path / "cost" / "seed0.json", costs | {"c": {"step_seconds": 0.1, "cost": 0.0}})
    assert list(timed_costs(tmp_path, 0)) == ["a"]


def test_a_report_that_follows_a_run_cannot_end_it(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told in a line; the command `report` itself refuses."""
    folder = shutil.copytree(folders["training"], tmp_path / "run")
    (folder / "metrics.jsonl").write_text("damaged\n")
    commands._report_after(ReportConfig(dirs=(folder,)), Console(markup=False))
    said = capsys.readouterr().out
    assert said.startswith("Warning: there is no report (line 1 of ")
    assert said.count("\n") == 1
    with pytest.raises(InputError, match="line 1 of"):
        write_report(ReportConfig(dirs=(folder,)))


def test_names_that_are_no_text_are_escaped(folders: dict[str, Path], tmp_path: Path) -> None:
    """Of folders whose bytes are no UTF-8, as Python hands them on."""
    folder = shutil.copytree(folders["training"], tmp_path / "run")
    run = read_json(folder / "run.json")
    run["images"]["class_names"][0] = "caf\udce9"
    (folder / "run.json").write_text(json.dumps(run))
    assert "caf\\udce9" in report(folder)
    assert read_finished_names(folder)[0] == "caf\\udce9"


def read_finished_names(folder: Path) -> tuple[str, ...]:
    return read_finished(folder).class_names


GENOTYPE = {
    "family": "nasbench201",
    "cells": {
        "cell": {
            "nodes": {
                "1": [["skip_connect", 0]],
                "2": [["skip_connect", 0], ["none", 1]],
                "3": [["skip_connect", 0], ["none", 1], ["none", 2]],
            },
            "concat": [3],
        }
    },
}


def test_genotypes_of_every_kind_of_damage(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(GENOTYPE))
    load_genotype(path)
    for place in places(GENOTYPE):
        for new in (..., *VALUES):
            damaged = changed(GENOTYPE, place, new)
            path.write_text(json.dumps(damaged))
            if damaged != GENOTYPE:
                assert nothing_but_sentences(load_genotype, path, path), (place, new)
    for content in BYTES.values():
        path.write_bytes(content)
        assert nothing_but_sentences(load_genotype, path, path)


DARTS = (
    "Genotype(normal=[('none', 0), ('none', 1)], normal_concat={}, reduce=[], reduce_concat=[2])"
)


@pytest.mark.parametrize(
    "spec",
    [
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        "|" * 100_000,
        "|none~" + "9" * 5000 + "|",
        "Genotype(" * 3000,
        "Genotype(normal=" + "-" * 10_000 + "1)",
        DARTS.format("0x" + "f" * 5000),
        DARTS.format("[0x" + "f" * 5000 + "]"),
        DARTS.format("range(0x" + "f" * 5000 + ", 0x1" + "f" * 5000 + ")"),
        DARTS.format("[True]"),
        "Genotype(\0)",
        "Genotype(normal=[('\ud800', 0)])",
        "a" * 5000,
        "a\0b",
        "",
        "/dev/zero",
        "published:" + "x" * 10_000,
    ],
    ids=range(16),
)
def test_genotypes_as_texts(spec: str) -> None:
    with pytest.raises(InputError) as refused:
        load_genotype(spec)
    assert len(str(refused.value)) < 1000
    str(refused.value).encode()


@pytest.mark.parametrize(
    ("value", "shape", "must"),
    [
        (101.0, Number(0, 100), "accuracy is 101.0, and must be a number from 0 to 100"),
        (1, Flag(), "accuracy is 1, and must be true or false"),
    ],
)
def test_what_does_not_fit_is_named(value: float, shape: object, must: str) -> None:
    assert misfit(value, shape, "accuracy") == must


def test_a_record_without_a_genotype_is_named() -> None:
    with pytest.raises(InputError, match=r"result.json is damaged: genotype: '\?' is not a geno"):
        genotype_of("?", Path("result.json"))


def test_a_package_without_metadata_has_an_unknown_version() -> None:
    assert version("a-package-without-metadata") == "unknown"
