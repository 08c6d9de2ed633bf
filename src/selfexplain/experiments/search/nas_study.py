"""Search methods compared over seeds: searches, look-ups over time, retraining, paired tests.

The folder of a study holds `nas-study.json` (configuration), `searches/METHOD-epochsN-seedM/` (one
search each, see run.py), `retrained/CELL-seedN/` (one training each, if asked) and, at the end,
`results.json`, `table.md` and `table.tex`. The same command again skips what is finished and
continues what is not.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selfexplain.data import ImageData
from selfexplain.data.datasets import check_spec
from selfexplain.errors import InputError
from selfexplain.experiments.compare.compare import paired_differences
from selfexplain.experiments.compare.grid import run_all, shared_images, stored
from selfexplain.experiments.data import load, prepare
from selfexplain.experiments.nas_study_options import (
    ADDABLE,
    NASStudyConfig,
    retraining_of,
    search_of,
)
from selfexplain.experiments.options import DeviceOptions, first_process, scheduler_of, to_dict
from selfexplain.experiments.read_records import read_search_lines, read_search_run
from selfexplain.experiments.run_dir import claim_several, environment, locked, write_config
from selfexplain.experiments.runtime import launch
from selfexplain.experiments.search.run import search_all, summarise_searches
from selfexplain.experiments.search.setup import BilevelLoader, build_search
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.files import write_record
from selfexplain.launchers import Scheduler, Store, Watch, ignore
from selfexplain.lease.options import WITHOUT_SEARCH
from selfexplain.limits import is_url
from selfexplain.models.build import check_model_name, check_without_weights
from selfexplain.report.nas_study import study_sentence
from selfexplain.spaces import FAMILIES, SPACES, from_string
from selfexplain.spaces.genotype import edges_of
from selfexplain.training import TrainingOptions
from selfexplain.training.log import EpochLog

if TYPE_CHECKING:
    from selfexplain.spaces.table import BenchmarkTable

UNDECIDED = 1.25
"""An edge is undecided if its largest weight is less than this many times uniform ones, a cell if
more than half of its edges are."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One search of a study: which method, with what."""

    method: str
    budget: int
    search: SearchConfig

    @property
    def key(self) -> Row:
        """What tells its row from others."""
        return {"method": self.method, "budget": self.budget, "seed": self.search.seed}


def run_nas_study(
    config: NASStudyConfig, watch: Watch = ignore, *, store: Store | None = None
) -> Row:
    """Run or continue a study; return what `results.json` holds.

    Args:
        config: the whole configuration; it is saved in the folder. If `out` is a URL, the folder is
            copied there.
        watch: is told how its searches and trainings get on.
        store: where finished runs are copied to, if the caller has opened it (`stored`).

    Raises:
        InputError: the folder holds another study or is in use, the configuration cannot be used,
            the table is not of the space, or a search failed; the others have been made by then.

    Example:
        >>> import tempfile
        >>> from selfexplain.experiments.options import DataOptions
        >>> config = NASStudyConfig(
        ...     data=DataOptions(data="digits", train_size=100),
        ...     methods=("random",),
        ...     seeds=(0, 1),
        ...     space="tiny201",
        ...     budget=(1,),
        ...     retrain=1,
        ...     retrain_batch_size=50,
        ...     out=Path(tempfile.mkdtemp()) / "study",
        ... )
        >>> run_nas_study(config)["summary"][0]["retrained"]["n"]
        2
    """
    if is_url(config.out):
        with stored(config) as (here, opened):
            return run_nas_study(here, watch, store=opened)
    # Seed by seed, so that a study that is broken off has pairs.
    runs = [
        Run(method=method, budget=budget, search=search_of(config, method, budget, seed))
        for seed in config.seeds
        for budget in config.budget
        for method in config.methods
    ]
    for run in runs:
        if run.search.method == "lease":
            check_model_name(run.search.audience)
            check_without_weights(run.search.audience, "pass an audience that starts from none")
    table = None if config.table is None else _table_of(config)
    claim_several(config, "nas-study.json", addable=ADDABLE)
    check_spec(config.data.data)
    with locked(config.out), shared_images(config.sweep, config.out) as images:
        claim_several(config, "nas-study.json", addable=ADDABLE)  # again: it was free before
        device = launch(DeviceOptions(accelerator=config.accelerator), TrainingOptions()).device
        data = _data_of(config, runs, images)
        around = environment(device)
        if first_process():
            write_config("nas-study.json", config, around)
        searches = [run.search for run in runs]
        scheduler = scheduler_of(config.sweep, store)
        found = search_all(searches, scheduler, watch, images=images, data=data)
        rows = [_row(run, result, table) for run, result in zip(runs, found, strict=True)]
        retrained = _retrain(config, rows, watch, images, scheduler)
        results = {
            "schema": 1,
            "config": {
                **to_dict(config, leave_out=("out",)),
                "environment": around,
                "undecided_below": UNDECIDED,
            },
            "reference": None if table is None else _reference(table),
            "rows": rows,
            "retrained": retrained,
            "summary": summarise_study(config, rows, retrained),
        }
        results["sentence"] = study_sentence(results)
        if first_process():
            write_record(config.out / "results.json", results)
    return results


# What is checked before the first search.


def _table_of(config: NASStudyConfig) -> BenchmarkTable:
    """The table, which must have every cell of the space."""
    # Here, as a study without a table does not wait for Parquet.
    from selfexplain.spaces.table import TABULATED, load_table

    family = SPACES[config.space].family
    if family not in TABULATED:
        raise InputError(
            f"tables have cells of {' and '.join(TABULATED)}, and space is {config.space}; leave "
            "out --table, and pass --retrain EPOCHS"
        )
    assert config.table is not None, "nobody asks otherwise"
    table = load_table(config.table)
    cells = len(FAMILIES[family].operations) ** len(edges_of(family))
    own = {arch for arch in table.cells if _family(arch) == family}
    if len(own) < cells:
        raise InputError(
            f"{config.table} has {len(own)} of the {cells} cells of {config.space}; pass a table "
            "of that space"
        )
    return table


def _family(arch: str) -> str:
    """The family of a table's cell; empty for what is none."""
    try:
        return from_string(arch).family
    except InputError:
        return ""


def _data_of(config: NASStudyConfig, runs: Sequence[Run], images: Path | None) -> ImageData | None:
    """The images, if there is anything left to search; all that is asked can be done with them."""
    left = [run for run in runs if not (run.search.out / "result.json").exists()]
    searched = [run for run in left if run.search.method not in WITHOUT_SEARCH]
    firsts = {run.method: run.search for run in reversed(searched)}
    if not firsts and (not left or config.retrain is None):
        return None
    data = load(config.data, images)
    cpu = torch.device("cpu")
    for place, (method, search) in enumerate(firsts.items()):
        if place == 0:  # all have the same batches
            BilevelLoader(search, prepare(data, search.data, search.seed), cpu)
        try:
            build_search(search, data, torch.ones(data.shape_CHW[0]), cpu)
        except InputError as error:
            raise InputError(f"{method}: {error}") from error
    count = min(config.data.train_size or len(data.train), len(data.train))
    if config.retrain is not None and count < config.retrain_batch_size:
        raise InputError(
            f"retrain_batch_size is {config.retrain_batch_size}, and there are {count} images "
            f"to train on; pass at most {count}"
        )
    return data


# What became of one search.


def _row(run: Run, result: Row, table: BenchmarkTable | None) -> Row:
    """The cell, how decided it is, its cost, and what the table says of it and of those before."""
    config = run.search
    lines = read_search_lines(EpochLog(config.out, name="search.jsonl"), config.space)
    kept = lines[:-1] if result.get("stopped_early") and len(lines) > 1 else lines
    row = {
        **run.key,
        "genotype": result["genotype"],
        "skips": result["skips"],
        "edges": result["edges"],
        "collapsed": result["collapsed"],
        "weights": kept[-1]["weights"] if kept else None,
        "undecided_edges": undecided_edges(kept[-1]["weights"]) if kept else 0.0,
        "seconds": _seconds(config, lines),
    }
    row["undecided"] = row["undecided_edges"] > 0.5
    if "validation_accuracy" in result:
        row["validation_accuracy"] = result["validation_accuracy"]
    if table is not None:
        found = table.look_up(result["genotype"])
        row |= {"table": found.test, "rank": found.rank, "percentile": found.percentile}
        # A search that stopped early has its cell from then on, a random one from the start;
        # the epochs of a selection come on top of the budget.
        cells = [line["genotype"] for line in kept]
        cells += [result["genotype"]] * (run.budget - len(cells))
        row["curve"] = [table.look_up(cell).test for cell in cells]
    return row


def undecided_edges(weights: Mapping[str, Sequence[Sequence[float]]]) -> float:
    """Share of the edges whose largest weight is less than `UNDECIDED` times uniform ones.

    Args:
        weights: cell -> edges -> weights of the operations, which sum to 1.

    Example:
        >>> undecided_edges({"cell": [[0.24, 0.19, 0.19, 0.19, 0.19], [0.6, 0.1, 0.1, 0.1, 0.1]]})
        0.5
    """
    edges = [edge for cell in weights.values() for edge in cell]
    return statistics.fmean(max(edge) < UNDECIDED / len(edge) for edge in edges)


def _seconds(config: SearchConfig, lines: Sequence[Row]) -> float | None:
    """Of all steps of a search, without scoring; None where its record lacks the images."""
    images = read_search_run(config.out / "run.json").get("images", {}).get("train")
    if images is None:
        return None if lines else 0.0
    return float(sum(line["step_seconds"] for line in lines) * (images // config.batch_size))


# Retraining.


def _retrain(
    config: NASStudyConfig,
    rows: Sequence[Row],
    watch: Watch,
    images: Path | None,
    scheduler: Scheduler,
) -> list[Row]:
    """Train the cells that are to be; a row for each method, budget and seed."""
    if config.retrain is None:
        return []
    wanted = list(_to_retrain(config, rows))
    trainings = {
        training.out: training
        for row in wanted
        if (training := retraining_of(config, row["genotype"], row["seed"]))
    }
    left = any(not (out / "result.json").exists() for out in trainings)
    data = load(config.data, images) if left and not scheduler.isolated else None
    done = run_all(list(trainings.values()), scheduler, watch, data=data, images=images)
    accuracy = {out: result["accuracy"] for out, result in zip(trainings, done, strict=True)}
    return [
        {**row, "accuracy": accuracy[retraining_of(config, row["genotype"], row["seed"]).out]}
        for row in wanted
    ]


def _to_retrain(config: NASStudyConfig, rows: Sequence[Row]) -> Iterator[Row]:
    """Which cell is trained with which seed; `found_by` is the seed of its search."""
    for method, budget, mine in grouped(config, rows):
        best = max(mine, key=lambda row: row.get("validation_accuracy", 0.0))
        for row in mine:
            chosen = row if config.retrain_found == "all" else best
            yield {
                "method": method,
                "budget": budget,
                "seed": row["seed"],
                "found_by": chosen["seed"],
                "genotype": chosen["genotype"],
            }


# From the rows of a study to a line for each method and budget.


def grouped(config: NASStudyConfig, rows: Iterable[Row]) -> Iterator[tuple[str, int, list[Row]]]:
    """The rows of each method with each budget, in the order of the configuration."""
    rows = list(rows)
    for budget in config.budget:
        for method in config.methods:
            own = [r for r in rows if (r["method"], r["budget"]) == (method, budget)]
            yield method, budget, own


def summarise_study(
    config: NASStudyConfig, rows: Sequence[Row], retrained: Sequence[Row]
) -> list[Row]:
    """Means over seeds of each method and budget, and paired differences to the first method.

    `table` and `retrained` hold mean and std of the accuracy there, and the difference to the first
    method with the same budget as in a comparison (`paired_differences`); all differences of one
    kind are corrected together.
    """
    measured = {
        "table": [{**row, "accuracy": row["table"]} for row in rows if "table" in row],
        "retrained": list(retrained),
    }
    scores = {kind: _scores(config, own) for kind, own in measured.items() if own}
    return [
        {
            "method": method,
            "budget": budget,
            **summarise_searches(mine),
            "undecided": sum(row["undecided"] for row in mine),
            "seconds": _mean_and_std([r["seconds"] for r in mine if r["seconds"] is not None]),
            **{kind: own[method, budget] for kind, own in scores.items()},
        }
        for method, budget, mine in grouped(config, rows)
    ]


def _scores(config: NASStudyConfig, rows: Sequence[Row]) -> dict[tuple[str, int], Row]:
    """Mean, std and difference of one accuracy, by method and budget."""
    names = {(m, b): f"{m} {b}" for b in config.budget for m in config.methods}
    baselines = {name: names[config.methods[0], budget] for (_, budget), name in names.items()}
    named = [{**row, "objective": names[row["method"], row["budget"]]} for row in rows]
    differences = paired_differences(named, baselines)
    return {
        place: _mean_and_std([r["accuracy"] for r in named if r["objective"] == name])
        | differences[name]
        for place, name in names.items()
    }


def _mean_and_std(values: Sequence[float]) -> Row:
    return {
        "n": len(values),
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def _reference(table: BenchmarkTable) -> Row:
    """What the best cell of a table reaches, a random one on average, and the table's own noise."""
    tests = [cell.test for cell in table.cells.values()]
    stds = [cell.seed_std for cell in table.cells.values() if cell.seed_std is not None]
    return {
        "cells": len(table),
        "best": max(tests),
        "mean": statistics.fmean(tests),
        "seed_std": statistics.median(stds) if stds else None,
    }
