"""Train one model with several objectives and seeds; say what each is worth and what it costs.

The runs are a grid of independent ones: a scheduler carries them out (grid.py, sweeps/).

The folder of a comparison holds `compare.json` (configuration), `runs/OBJECTIVE-seedN/` (one run
each, see train.py), `teachers/` (the same for the teachers that were trained for them),
`cost/seedN.json`, and at the end `results.json` and `table.md`. The same command again skips what
is finished and continues what is not. With `--tune` the trials of options are in `tune/`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selfexplain.data import ImageData
from selfexplain.errors import InputError
from selfexplain.evaluation import PairedDifference, Scores, holm, paired_difference
from selfexplain.experiments.compare.grid import (
    RunTrials,
    run_all,
    run_trial,
    shared_images,
    stored,
)
from selfexplain.experiments.compare.tune import check_tunable, tuned
from selfexplain.experiments.data import Prepared, load, prepare
from selfexplain.experiments.fit.model import (
    build_seeded,
    check_model,
    check_place,
    wanted_statistics,
)
from selfexplain.experiments.fit.teacher import (
    check_teacher_is_needed,
    stand_in,
    train_config,
    with_teachers,
    with_total_cost,
)
from selfexplain.experiments.objectives import (
    check_step,
    free_options,
    option_values,
    resolve,
    split_spec,
)
from selfexplain.experiments.options import CompareConfig, scheduler_of, to_dict
from selfexplain.experiments.read_records import ENVIRONMENT, read_own_result
from selfexplain.experiments.run_dir import (
    check_tensors,
    claim_comparison,
    claim_folder,
    environment,
    locked,
    read_finished,
    write_config,
)
from selfexplain.experiments.runtime import launch, reraise_oom
from selfexplain.files import read_json, write_record
from selfexplain.launchers import Store, Watch, ignore
from selfexplain.limits import is_url
from selfexplain.models.build import check_model_name, check_without_weights
from selfexplain.objectives import Objective
from selfexplain.training.cost import interleaved_cost
from selfexplain.training.loggers import check_installed
from selfexplain.training.processes import synchronize_batch_norm

if TYPE_CHECKING:
    from lightning_fabric import Fabric


# From the rows of a comparison, one for each run, to one line for each objective.


SCORES = tuple(field.name for field in fields(Scores))
"""Scores that every run has."""
SOMETIMES = ("corrupted_accuracy", "corruptions", "total_cost", "cost_ci95", "total_cost_ci95")
"""Fields of a row that only some comparisons have."""

Row = dict[str, Any]


def summarise(rows: Sequence[Row], objectives: Sequence[str]) -> list[Row]:
    """Mean and std over seeds of each objective, and its paired difference to the first.

    Std is the sample's (None for one seed). The difference is of accuracy in percentage points,
    over the seeds that both have (None if there are none), with the 95 % interval of Student's t
    (`difference_ci95`), one for all differences together (`difference_simultaneous95`, Bonferroni),
    the p-value of the paired t-test and Holm's correction of it for the number of differences.
    Every number that all rows have is averaged.
    """
    differences = paired_differences(rows, dict.fromkeys(objectives, objectives[0]))
    return [
        _means(name, [r for r in rows if r["objective"] == name]) | differences[name]
        for name in objectives
    ]


def paired_differences(rows: Sequence[Row], baselines: Mapping[str, str]) -> dict[str, Row]:
    """What `summarise` says of the difference in accuracy of each objective to its baseline.

    Args:
        rows: one for each run, with objective, seed and accuracy.
        baselines: objective -> the one that it is compared with; one that is its own is not
            tested. All other differences count as looked at together.
    """
    others = [name for name, baseline in baselines.items() if name != baseline]
    differences = {
        name: _difference(rows, name, baseline, comparisons=max(1, len(others)))
        for name, baseline in baselines.items()
    }
    p_values = {name: None if d is None else d.p_value for name, d in differences.items()}
    corrected = dict(zip(others, holm([p_values[name] for name in others]), strict=True))
    return {
        name: {
            **{
                f"difference_{key}": None if difference is None else getattr(difference, key)
                for key in ("mean", "ci95", "simultaneous95")
            },
            # A baseline is not compared with itself.
            "difference_p": p_values[name] if name in corrected else None,
            "difference_p_holm": corrected.get(name),
        }
        for name, difference in differences.items()
    }


def paired_accuracies(rows: Sequence[Row], name: str, first: str) -> dict[int, tuple[float, float]]:
    """Accuracies in percent of two objectives, by seed, of the seeds that have runs of both."""
    accuracy = {(row["objective"], row["seed"]): row["accuracy"] for row in rows}
    return {
        seed: (mine, accuracy[first, seed])
        for (objective, seed), mine in accuracy.items()
        if objective == name and (first, seed) in accuracy
    }


def _difference(
    rows: Sequence[Row], name: str, first: str, *, comparisons: int
) -> PairedDifference | None:
    """Difference in accuracy to the first objective; None if no seed has both."""
    pairs = paired_accuracies(rows, name, first)
    if not pairs:
        return None
    mine, firsts = zip(*pairs.values(), strict=True)
    return paired_difference(mine, firsts, comparisons=comparisons)


def _means(name: str, mine: Sequence[Row]) -> Row:
    """Mean and std of the scores, mean of the costs that are known; old runs lack some scores."""
    line: Row = {"objective": name, "n": len(mine)}
    for key in (*SCORES, "corrupted_accuracy"):
        if all(key in row for row in mine):
            values = [row[key] for row in mine]
            line[f"{key}_mean"] = statistics.fmean(values)
            line[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
    for key in ("cost", "total_cost"):
        if costs := [row[key] for row in mine if key in row]:
            line[key] = statistics.fmean(costs)
        ends = [row[f"{key}_ci95"] for row in mine if row.get(f"{key}_ci95") is not None]
        if ends and len(ends) == len(costs):  # not narrowed: what disturbs one disturbs all
            line[f"{key}_ci95"] = [statistics.fmean(end) for end in zip(*ends, strict=True)]
    return line


# The table of a comparison that is not finished: of the runs that are, and it says which are not.
#
# A table that is made in several sittings can so be looked at, and published, after each of them.


def finished_rows(config: CompareConfig) -> tuple[list[Row], list[str]]:
    """Rows of the finished runs, as in `results.json`, and the names of the missing ones."""
    rows, missing = [], []
    for seed in config.seeds:
        costs = _timed_costs_of(config, seed)
        for spec in config.objectives:
            run = train_config(config, spec, seed, config.out)
            result = run.out / "result.json"
            if result.exists():
                claim_folder(run)
                check_tensors(run.out)
                rows.append(_row(read_own_result(result, spec, seed), costs.get(spec)))
            else:
                missing.append(f"{spec} with seed {seed}")
    first = config.objectives[0]
    if all(row["objective"] != first for row in rows):
        raise InputError(
            f"no run of {first} is finished in {config.out}; leave out --finished-only to train"
        )
    return rows, missing


def _row(result: Row, cost: Row | None) -> Row:
    """What a run brought and what its step costs; how long its own took is not to be compared.

    Costs are timed last, so that a run may be finished and none be known.
    """
    return {k: v for k, v in result.items() if k != "step_seconds"} | (cost or {})


def timed_costs(folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Costs timed with a seed and kept in `cost/`, valid ones alone: others are timed anew."""
    path = folder / "cost" / f"seed{seed}.json"
    kept = read_json(path) if path.exists() else {}
    return {name: cost for name, cost in kept.items() if _is_cost(cost)}


def _is_cost(value: object) -> bool:
    fields = ("step_seconds", "cost")
    return isinstance(value, dict) and all(
        isinstance(value.get(f), float) and 0 < value[f] < math.inf for f in fields
    )


def _timed_costs_of(config: CompareConfig, seed: int) -> dict[str, dict[str, Any]]:
    """Costs of the objectives that were timed with this seed, their teachers too."""
    timed = timed_costs(config.out, seed)
    known = [s for s in config.objectives if timed.keys() >= set(with_teachers(config, [s]))]
    return with_total_cost(config, known, timed)


def environment_of(config: CompareConfig) -> dict[str, Any]:
    """Where the runs were made, as their comparison noted it."""
    path = config.out / "compare.json"
    if not path.exists():
        raise InputError(f"{config.out} contains no comparison; pass --out with the folder of one")
    environment: dict[str, Any] = read_json(path, {"environment": ENVIRONMENT})["environment"]
    return environment


def unfinished_config(config: CompareConfig, missing: list[str]) -> dict[str, Any]:
    """What `results.json` says of the configuration of an unfinished comparison."""
    shared = to_dict(config, leave_out=("out",))
    unfinished = {"unfinished": missing} if missing else {}
    return {**shared, "environment": environment_of(config), **unfinished}


COLUMNS = ("objective", "seed", *SCORES, "step_seconds", "cost", *SOMETIMES)
"""Fields of a row of results.json, those that it has."""


def run_comparison(
    config: CompareConfig,
    watch: Watch = ignore,
    run_trials: RunTrials | None = None,
    *,
    store: Store | None = None,
) -> dict[str, Any]:
    """Run or continue a comparison; return what `results.json` holds.

    Args:
        config: the whole configuration; it is saved in the folder. If `out` is a URL, the folder is
            copied there (grid.py, `stored`).
        watch: is told how its runs get on.
        run_trials: runs the trials of a tuning, see tune.py; None for the scheduler of the runs.
        store: where finished runs are copied to, if the caller has opened it (`stored`).

    Raises:
        InputError: the folder holds another comparison or is in use, the configuration cannot be
            used, or a run failed; the others have been made by then.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from selfexplain.experiments.options import DataOptions
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
    if is_url(config.out):
        with stored(config) as (here, opened):
            return run_comparison(here, watch, run_trials, store=opened)
    _check_distinct(config)  # a misspelt objective, too, is refused before hours of training
    check_teacher_is_needed(config, config.objectives)
    check_model_name(config.model, pretrained=config.pretrained)
    if not config.pretrained:
        check_without_weights(config.model)
    if config.teacher is not None:
        read_finished(config.teacher)
    check_place(config)
    check_tunable(config)
    check_installed(config.loggers)
    claim_comparison(config)
    with locked(config.out):
        if config.finished_only:
            rows, missing = finished_rows(config)
            return _written(config, rows, unfinished_config(config, missing))
        with shared_images(config.sweep, config.out) as images:
            return _compare(config, watch, run_trials, images, store)


def _check_distinct(config: CompareConfig) -> None:
    """Refuse an objective that there is not, and two spellings of one, which would count as two."""
    seen: dict[object, str] = {}
    for spec in config.objectives:
        name, _ = resolve(spec, config.options)
        mixers = [mixer.partition(":")[0] for mixer in split_spec(spec)[0]]
        values = sorted(option_values(spec, config.options).items())
        tuned = sorted(free_options(spec)) if config.tune is not None else ()
        key = repr((mixers, name, values, tuned))
        if key in seen:
            raise InputError(
                f"{seen[key]!r} and {spec!r} are one objective with the same options; leave one out"
            )
        seen[key] = spec


def _compare(
    config: CompareConfig,
    watch: Watch,
    run_trials: RunTrials | None,
    images: Path | None,
    store: Store | None,
) -> dict[str, Any]:
    claim_comparison(config)  # again: another command may have left it a moment ago
    fabric = launch(config.device, config.training)
    data = load(config.data, images)
    start = build_seeded(config, "standard", config.seeds[0], data, num_images=1)
    check_model(start.model, config.model, data.shape_CHW, data.num_classes)
    around = environment(fabric.device)
    if fabric.is_global_zero:
        write_config("compare.json", config, around)
    scheduler = scheduler_of(config.sweep, store)
    through = partial(
        run_all,
        scheduler=scheduler,
        watch=watch,
        fabric=fabric,
        data=data,
        teachers=config.out / "tune" / "teachers",
        images=images,
        train=run_trial,
    )
    config, tuning = tuned(config, run_trials or through)
    _check_objectives(config, data)
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
        images=images,
    )
    # Steps are timed while nothing else of ours runs, as workers would disturb each other; and
    # last, as a comparison that is broken off has its runs then.
    costs = {
        seed: with_total_cost(config, config.objectives, _costs(config, seed, data, fabric))
        for seed in config.seeds
    }
    rows = [_row(result, costs[result["seed"]][result["objective"]]) for result in done]
    told = {
        **to_dict(config, leave_out=("out",)),
        "environment": around,
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


def _check_objectives(config: CompareConfig, data: ImageData) -> None:
    """Refuse, before any training, an objective that cannot be built or take a step."""
    seed = config.seeds[0]
    names = with_teachers(config, dict.fromkeys(("standard", *config.objectives)))
    prepared = prepare(data, config.data, seed, wanted_statistics(config, data.shape_CHW[0]))
    for name, objective in _built(config, names, seed, data, prepared):
        check_step(objective, name, data.shape_CHW, data.num_classes)


def _built(
    config: CompareConfig, names: Iterable[str], seed: int, data: ImageData, prepared: Prepared
) -> Iterator[tuple[str, Objective]]:
    """Each objective, with a stand-in for its teacher."""
    for name in names:
        teacher = stand_in(config, name, data, prepared)
        objective = build_seeded(
            config, name, seed, data, num_images=len(prepared.train), teacher=teacher
        )
        yield name, objective


def _costs(
    config: CompareConfig, seed: int, data: ImageData, fabric: Fabric
) -> dict[str, dict[str, Any]]:
    """Interleaved step times of all objectives, measured once for each seed and kept in a file."""
    names = with_teachers(config, dict.fromkeys(("standard", *config.objectives)))
    kept = timed_costs(config.out, seed)
    if set(names) <= kept.keys():
        return kept
    prepared = prepare(data, config.data, seed, wanted_statistics(config, data.shape_CHW[0]))
    objectives = dict(_built(config, names, seed, data, prepared))
    batches = prepared.training_batches(
        batch_size=config.training.batch_size,
        seed=seed,
        device=fabric.device,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        workers=0,
    )
    x_BCHW, y_B, index_B = next(batches.indexed_epoch(0))
    if config.training.sync_batchnorm and fabric.world_size > 1:  # as in training
        for objective in objectives.values():
            synchronize_batch_norm(objective)
    if config.training.channels_last:
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        for objective in objectives.values():
            objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with reraise_oom("pass a smaller --batch-size, or fewer --objectives at a time"):
        measured = interleaved_cost(
            objectives,
            "standard",
            (x_BCHW, y_B, index_B),
            fabric=fabric,
            compiled=config.training.compile,
            cuda_graph=config.training.cuda_graph,
            optimizer=config.training.optimizer,
        )
    costs = {
        name: {
            "step_seconds": c.step_seconds,
            "cost": c.ratio,
            **({} if c.ratio_ci95 is None else {"cost_ci95": list(c.ratio_ci95)}),
        }
        for name, c in measured.items()
    }
    if fabric.is_global_zero:
        write_record(config.out / "cost" / f"seed{seed}.json", costs)
    return costs
