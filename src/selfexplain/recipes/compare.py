"""Train one model with several objectives and seeds; say what each is worth and what it costs.

The runs are a grid of independent ones: a scheduler carries them out (grid.py, sweeps/).

The folder of a comparison holds `compare.json` (configuration), `runs/OBJECTIVE-seedN/` (one run
each, see train.py), `teachers/` (the same for the teachers that were trained for them),
`cost/seedN.json`, and at the end `results.json` and `table.md`. The same command again skips what
is finished and continues what is not. With `--tune` the trials of options are in `tune/`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from selfexplain.data import ImageData
from selfexplain.models.build import check_model_name
from selfexplain.recipes.check_model import check_model, check_place
from selfexplain.recipes.classifier import build_seeded
from selfexplain.recipes.environment import environment
from selfexplain.recipes.finished import read_finished
from selfexplain.recipes.finished_runs import finished_rows, timed_costs, unfinished_config
from selfexplain.recipes.folder import (
    check_free,
    check_same_config,
    kept_said,
    locked,
    saved_config,
)
from selfexplain.recipes.grid import run_all
from selfexplain.recipes.launch import launch
from selfexplain.recipes.objectives import resolve
from selfexplain.recipes.options import CompareConfig, plain
from selfexplain.recipes.prepare import load, prepare
from selfexplain.recipes.runs import train_config
from selfexplain.recipes.summary import SCORES, SOMETIMES, summarise
from selfexplain.recipes.sweep_options import scheduler_of
from selfexplain.recipes.teacher import stand_in
from selfexplain.recipes.teacher_chain import (
    check_teacher_is_needed,
    with_teachers,
    with_total_cost,
)
from selfexplain.recipes.trials import RunTrials, run_trial
from selfexplain.recipes.tune import check_tunable, tuned
from selfexplain.sweeps import Watch, ignore
from selfexplain.training.cost import interleaved_cost
from selfexplain.training.files import write_record
from selfexplain.training.loggers import check_installed
from selfexplain.training.shortage import shortage_said

if TYPE_CHECKING:  # a refusal comes before its seconds of import
    from lightning_fabric import Fabric


COLUMNS = ("objective", "seed", *SCORES, "step_seconds", "cost", *SOMETIMES)
"""Fields of a row of results.json, those that it has."""


def run_comparison(
    config: CompareConfig, watch: Watch = ignore, run_trials: RunTrials | None = None
) -> dict[str, Any]:
    """Run or continue a comparison; return what `results.json` holds.

    Args:
        config: the whole configuration; it is saved in the folder.
        watch: is told how its runs get on.
        run_trials: runs the trials of a tuning, see tune.py; None for the scheduler of the runs.

    Raises:
        InputError: the folder holds another comparison or is in use, the configuration cannot be
            used, or a run failed; the others have been made by then.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from selfexplain.recipes.options import DataOptions
        >>> from selfexplain.training import TrainingOptions
        >>> config = CompareConfig(
        ...     data=DataOptions(data="digits", train_size=100),
        ...     objectives=("standard", "introspective"),
        ...     seeds=(0,),
        ...     training=TrainingOptions(epochs=1, batch_size=50),
        ...     out=Path(tempfile.mkdtemp()) / "compare",
        ... )
        >>> [row["objective"] for row in run_comparison(config)["rows"]]
        ['standard', 'introspective']
    """
    for spec in config.objectives:
        resolve(spec, config.options)  # a misspelt objective is refused before hours of training
    check_teacher_is_needed(config, config.objectives)
    check_model_name(config.model)
    if config.teacher is not None:
        read_finished(config.teacher)
    check_place(config)
    check_tunable(config)
    check_installed(config.loggers)
    _claim_folder(config)
    with locked(config.out), kept_said(config.out):
        if config.finished_only:
            rows, missing = finished_rows(config)
            return _written(config, rows, unfinished_config(config, missing))
        return _compare(config, watch, run_trials)


def _compare(config: CompareConfig, watch: Watch, run_trials: RunTrials | None) -> dict[str, Any]:
    _claim_folder(config)  # again: another command may have left it a moment ago
    fabric = launch(config.device, config.training)
    data = load(config.data)
    start = build_seeded(config, "standard", config.seeds[0], data, num_images=1)
    check_model(start.model, config.model, data.shape_CHW, data.num_classes)
    if fabric.is_global_zero:
        shared = plain(config, leave_out=("out",))
        write_record(
            config.out / "compare.json",
            {"schema": 1, "config": shared, "environment": environment(fabric.device)},
        )
    scheduler = scheduler_of(config.sweep)
    through = partial(
        run_all,
        scheduler=scheduler,
        watch=watch,
        fabric=fabric,
        data=data,
        teachers=config.out / "tune" / "teachers",
        train=run_trial,
    )
    config, tuning = tuned(config, run_trials or through)
    # Steps are timed while nothing else of ours runs; workers would disturb each other.
    costs = {
        seed: with_total_cost(config, config.objectives, _costs(config, seed, data, fabric))
        for seed in config.seeds
    }
    torch.cuda.empty_cache()  # what was timed is gone, and workers may need its memory
    done = run_all(
        [
            train_config(config, s, seed, config.out)
            for seed in config.seeds
            for s in config.objectives
        ],
        scheduler,
        watch,
        fabric=fabric,
        data=data,
        teachers=config.out / "teachers",
    )
    rows = [result | costs[result["seed"]][result["objective"]] for result in done]
    told = {
        **plain(config, leave_out=("out",)),
        "environment": environment(fabric.device),
        **({} if tuning is None else {"tuning": tuning}),
    }
    return _written(config, rows, told, first=fabric.is_global_zero)


def _written(
    config: CompareConfig, rows: list[dict[str, Any]], told: dict[str, Any], *, first: bool = True
) -> dict[str, Any]:
    """What `results.json` holds; the first process writes it."""
    have = {row["objective"] for row in rows}
    results = {
        "schema": 1,
        "config": told,
        "rows": [{name: row[name] for name in COLUMNS if name in row} for row in rows],
        "summary": summarise(rows, [spec for spec in config.objectives if spec in have]),
    }
    if first:
        write_record(config.out / "results.json", results)
    return results


def _costs(
    config: CompareConfig, seed: int, data: ImageData, fabric: Fabric
) -> dict[str, dict[str, float]]:
    """Interleaved step times of all objectives, measured once for each seed and kept in a file."""
    names = with_teachers(config, dict.fromkeys(("standard", *config.objectives)))
    kept = timed_costs(config.out, seed)
    if set(names) <= kept.keys():
        return kept
    prepared = prepare(data, config.data, seed)
    objectives = {
        name: build_seeded(
            config,
            name,
            seed,
            data,
            num_images=len(prepared.train),
            teacher=stand_in(config, name, data, prepared),
        )
        for name in names
    }
    batches = prepared.training_batches(
        batch_size=config.training.batch_size,
        seed=seed,
        device=fabric.device,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        workers=0,
    )
    x_BCHW, y_B, index_B = next(batches.indexed_epoch(0))
    if config.training.channels_last:  # as in training
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        for objective in objectives.values():
            objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with shortage_said("pass a smaller --batch-size, or fewer --objectives at a time"):
        measured = interleaved_cost(
            objectives,
            "standard",
            (x_BCHW, y_B, index_B),
            fabric=fabric,
            compiled=config.training.compile,
            recorded=config.training.cuda_graph,
        )
    costs = {
        name: {"step_seconds": c.step_seconds, "cost": c.ratio} for name, c in measured.items()
    }
    if fabric.is_global_zero:
        write_record(config.out / "cost" / f"seed{seed}.json", costs)
    return costs


def _claim_folder(config: CompareConfig) -> None:
    """Check that the folder is free or holds this comparison, to which runs may be added."""
    path = config.out / "compare.json"
    if path.exists():
        # Each run checks the options of its own objective.
        free = ("out", "objectives", "seeds", "options")
        old = {k: v for k, v in saved_config(path).items() if k not in free}
        check_same_config(old, plain(config, leave_out=free), config.out)
    else:
        check_free(config.out)
