"""Bases, selections and controls of `selfexplain search`, on tiny supernets and few images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfexplain.errors import InputError
from selfexplain.experiments.data import load, prepare
from selfexplain.experiments.options import DataOptions, to_dict
from selfexplain.experiments.report import ReportConfig, write_report
from selfexplain.experiments.search.run import run_search, run_searches
from selfexplain.experiments.search.setup import BilevelLoader
from selfexplain.experiments.search_options import SearchConfig, SearchesConfig
from selfexplain.lease import BaseOptions, LeaSEOptions
from selfexplain.lease.bases import PDARTS
from selfexplain.spaces import SPACES, all_conv3x3, from_string, to_string
from selfexplain.training.checkpoint import load_checkpoint

DATA = DataOptions(data="digits", train_size=40, validation=0.03)


def tiny(out: Path = Path("out"), kind: Any = SearchConfig, **options: Any) -> Any:
    given = {"data": DATA, "space": "tiny201", "method": "darts1", "batch_size": 20, "cells": 1}
    more = {"init_channels": 4, "epochs": 2, "warmup_epochs": 0, "out": out}
    return kind(**(given | more | options))


def html_of(folder: Path) -> str:
    return write_report(ReportConfig(dirs=(folder,), out=folder / "r.html")).read_text()


def test_a_plain_search_is_recorded_as_before_there_were_bases() -> None:
    record = to_dict(tiny())
    assert not {"base", "validation_labels"} & set(record)
    searches = replace(tiny(kind=SearchesConfig, seeds=(0, 1)))
    assert not {"base", "validation_labels"} & set(to_dict(searches))
    # The folder of a default search of 0.1.0 and of one on a base.
    default = SearchConfig(data=DataOptions(data="digits"))
    assert default.out == Path("runs/search-digits-nasbench201-lease-bb140961")
    assert replace(default, out=tiny().out).out == tiny().out
    other = SearchConfig(data=DataOptions(data="digits"), base=BaseOptions(base="drnas"))
    assert other.out != default.out
    assert to_dict(other)["base"] == {"base": "drnas"}


@pytest.mark.slow
def test_a_search_on_a_base_that_is_cut_in_its_selection_resumes_as_the_unbroken_one(
    tmp_path: Path,
) -> None:
    base = BaseOptions(
        base="drnas_progressive",
        select="audience_perturbation",
        selection_epochs=1,
        teaching_steps=1,
    )
    options = {"method": "lease", "base": base}
    whole = run_search(tiny(tmp_path / "whole", **options))
    assert whole["epochs"] == 4

    def cut(done: int, total: int) -> None:
        assert total == 4 * 2
        if done == 7:  # in the last epoch of the tuning
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(tiny(tmp_path / "cut", **options), on_step=cut)
    resumed = run_search(tiny(tmp_path / "cut", resume=True, **options))
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "cut")]
    for state in states:
        assert bool((state["search"]["kept"]["cell"].sum(1) == 1).all())
    pairs = list(zip(*(_flat(state["search"]) for state in states), strict=True))
    assert len(pairs) > 50
    assert all(torch.equal(a, b) for a, b in pairs)
    assert {**whole, "step_seconds": 0} == {**resumed, "step_seconds": 0}
    path = tmp_path / "cut" / "search.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    mixed = [sum(max(row) < 1 for row in line["weights"]["cell"]) for line in lines]
    assert mixed == [3, 2, 1, 0]
    assert lines[0]["weights"]["cell"][0].count(0) == 0
    assert sorted(lines[1]["weights"]["cell"][i].count(0) for i in range(3)) == [2, 2, 4]
    assert "base drnas_progressive" in html_of(tmp_path / "cut")


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for item in items for tensor in _flat(item)]


@pytest.mark.slow
def test_pdarts_goes_on_from_a_deeper_stage_as_the_unbroken_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PDARTS, "DEPTHS", (5, 5, 7))
    monkeypatch.setattr("selfexplain.experiments.search.run.write_outcome", lambda *_: None)
    data = DataOptions(data="digits", train_size=20, validation=0.03)
    options = {"space": "darts", "data": data, "cells": 3, "epochs": 6, "init_channels": 2}
    options |= {"base": BaseOptions(base="pdarts")}
    whole = run_search(tiny(tmp_path / "whole", **options))

    def cut(done: int, total: int) -> None:
        if done == 6:  # in the second epoch of the third stage
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(tiny(tmp_path / "cut", **options), on_step=cut)
    resumed = run_search(tiny(tmp_path / "cut", resume=True, **options))
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "cut")]
    assert [state["stage"] for state in states] == [2, 2]
    pairs = list(zip(*(_flat(state["search"]) for state in states), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    weights = states[0]["search"]["learners"]["explainer"]["module"]
    assert any(name.startswith("network.cells.3.") for name in weights)
    assert not any(name.startswith("network.cells.4.") for name in weights)
    assert {**whole, "step_seconds": 0} == {**resumed, "step_seconds": 0}
    path = tmp_path / "cut" / "search.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for cell in ("normal", "reduce"):
        zeros = [[row.count(0) for row in line["weights"][cell]] for line in lines]
        assert zeros == [[n] * 14 for n in (0, 0, 3, 3, 5, 5)]
    assert ["validation" in line["losses"] for line in lines] == [False, True] * 3
    assert whole["skips"] <= 2


@pytest.mark.slow
def test_without_tuning_all_edges_are_decided_after_the_search(tmp_path: Path) -> None:
    base = BaseOptions(select="perturbation", selection_epochs=0)
    result = run_search(tiny(tmp_path / "s", base=base, epochs=1))
    assert result["epochs"] == 1
    (line,) = (tmp_path / "s" / "search.jsonl").read_text().splitlines()
    weights = json.loads(line)["weights"]["cell"]
    assert sorted(weights[0]) == [0, 0, 0, 0, 1]
    assert json.loads(line)["genotype"] == result["genotype"]


@pytest.mark.slow
def test_searches_over_seeds_stand_on_bases(tmp_path: Path) -> None:
    given = {"base": BaseOptions(base="beta_darts"), "validation_labels": "shuffled"}
    found = run_searches(tiny(tmp_path / "s", SearchesConfig, seeds=(0, 1), epochs=1, **given))
    assert [row["seed"] for row in found["rows"]] == [0, 1]
    assert found["config"]["base"] == {"base": "beta_darts"}
    html = html_of(tmp_path / "s" / "seed0")
    assert "darts1, base beta_darts, shuffled validation labels" in html


@pytest.mark.parametrize("space", ["nasbench201", "tiny201", "darts", "pcdarts"])
def test_the_cell_of_convolutions_alone_is_in_every_space(space: str) -> None:
    genotype = all_conv3x3(SPACES[space].family)
    wanted = "sep_conv_3x3" if "darts" in space else "nor_conv_3x3"
    edges = [e for c in genotype.cells.values() for node in c.nodes for e in node]
    assert {edge.operation for edge in edges} == {wanted}
    assert from_string(to_string(genotype)) == genotype


def test_a_family_without_such_a_convolution_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there are no cells of family 'no'; pass one of"):
        all_conv3x3("no")
    rules = replace(SPACES["tiny201"].rules, operations=("none", "skip_connect"))
    monkeypatch.setitem(SPACES, "tiny201", replace(SPACES["tiny201"], rules=rules))
    with pytest.raises(InputError, match="no operation of tiny201 is called"):
        all_conv3x3("tiny201")


def test_a_cell_without_a_search_has_its_report(tmp_path: Path) -> None:
    result = run_search(tiny(tmp_path / "s", method="all_conv3x3"))
    assert result["genotype"] == "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
    assert not (tmp_path / "s" / "search.jsonl").exists()
    html = html_of(tmp_path / "s")
    assert "a 3x3 convolution on every edge; nothing was trained" in html


def test_shuffled_validation_labels_are_those_of_other_images_of_the_batch() -> None:
    prepared = prepare(load(DATA), DATA, 0)
    plain, shuffled, again = (
        BilevelLoader(tiny(validation_labels=labels), prepared, torch.device("cpu"))
        for labels in ("true", "shuffled", "shuffled")
    )
    moved = []
    for epoch in range(2):
        batches = zip(plain.epoch(epoch), shuffled.epoch(epoch), again.epoch(epoch), strict=True)
        for ((x, y), (xv, yv)), ((sx, sy), (sxv, syv)), (_, (_, repeated)) in batches:
            assert torch.equal(x, sx)
            assert torch.equal(y, sy)
            assert torch.equal(xv, sxv)
            assert torch.equal(yv.sort().values, syv.sort().values)
            assert torch.equal(syv, repeated)
            moved.append(float((yv != syv).float().mean()))
    assert sum(moved) / len(moved) > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "random", "base": BaseOptions(base="drnas")}, "no gradient towards an archit"),
        ({"method": "random_search", "base": BaseOptions(select="perturbation")}, "no gradient"),
        ({"method": "all_conv3x3", "base": BaseOptions(base="beta_darts")}, "no gradient towards"),
        ({"method": "all_conv3x3", "stop_at_skips": 2}, "method all_conv3x3 has none; leave it"),
        ({"method": "all_conv3x3", "options": LeaSEOptions(mode="exact")}, "leave out --mode"),
        ({"method": "random", "validation_labels": "shuffled"}, "validation_labels is shuffled"),
        (
            {"base": BaseOptions(select="audience_perturbation")},
            "method darts1 has no audience of its own; pass method lease, or select perturbation",
        ),
        (
            {"method": "sanas", "base": BaseOptions(select="audience_perturbation")},
            "method sanas has no audience of its own",
        ),
        (
            {
                "method": "lease",
                "options": LeaSEOptions(gamma=0, gradient_path="explainer_only"),
                "base": BaseOptions(select="audience_perturbation"),
            },
            "with gamma 0 the audience learns nothing from explanations; pass a positive gamma",
        ),
        ({"base": BaseOptions(base="pdarts"), "epochs": 6}, "the space is tiny201; pass space dar"),
        (
            {"space": "darts", "cells": 3, "base": BaseOptions(base="pdarts"), "epochs": 5},
            "epochs is 5, but base pdarts has three stages of at least 2 epochs; pass at least 6",
        ),
        (
            {
                "space": "darts",
                "cells": 3,
                "base": BaseOptions(base="pdarts", select="perturbation"),
                "epochs": 6,
            },
            "leave out select and stop_at_skips",
        ),
        (
            {
                "space": "pcdarts",
                "cells": 3,
                "base": BaseOptions(base="pdarts"),
                "epochs": 6,
                "init_channels": 8,
                "stop_at_skips": 2,
            },
            "leave out select and stop_at_skips",
        ),
        (
            {"base": BaseOptions(select="perturbation"), "stop_at_skips": 2},
            "stop_at_skips looks at the largest weights, but select is perturbation",
        ),
    ],
    ids=str,
)
def test_what_method_or_space_cannot_carry_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        tiny(**options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection_epochs": 3}, "leave them out, or pass select perturbation"),
        ({"teaching_steps": 3}, "leave them out, or pass select audience_perturbation"),
        ({"select": "perturbation", "teaching_steps": 3}, "pass select audience_perturbation"),
        ({"select": "perturbation", "selection_epochs": -1}, "selection_epochs is -1; pass"),
        ({"select": "audience_perturbation", "teaching_steps": 0}, "teaching_steps is 0; pass"),
    ],
    ids=str,
)
def test_options_that_would_not_be_looked_at_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        BaseOptions(**options)


def test_a_space_without_none_cannot_remove_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = replace(SPACES["tiny201"].rules, operations=("skip_connect", "nor_conv_3x3"))
    monkeypatch.setitem(SPACES, "tiny201", replace(SPACES["tiny201"], rules=rules))
    with pytest.raises(InputError, match="space tiny201 has no operation none"):
        tiny(base=BaseOptions(select="perturbation"))
