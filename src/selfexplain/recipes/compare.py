"""Train one model with several objectives and seeds; say what each is worth and what it costs.

The runs are a grid of independent ones: a scheduler carries them out (runs.py, sweeps/).

The folder of a comparison holds `compare.json` (configuration), `runs/OBJECTIVE-seedN/` (one run
each, see train.py), `cost/seedN.json`, and at the end `results.json` and `table.md`. The same
command again skips what is finished and continues what is not.
"""

import dataclasses
import re
import statistics
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from selfexplain.data import ImageData
from selfexplain.evaluation import paired_difference
from selfexplain.recipes.classifier import build_seeded
from selfexplain.recipes.environment import environment
from selfexplain.recipes.folder import check_free, check_same_config, locked, saved_config
from selfexplain.recipes.objectives import resolve
from selfexplain.recipes.options import CompareConfig, TrainConfig, plain
from selfexplain.recipes.prepare import load, prepare
from selfexplain.recipes.runs import run_all
from selfexplain.recipes.sweep_options import scheduler_of
from selfexplain.recipes.train import check_model, launch
from selfexplain.sweeps import Watch, ignore
from selfexplain.training.cost import interleaved_cost
from selfexplain.training.files import read_json, write_json

COLUMNS = ("objective", "seed", "accuracy", "nll", "brier", "ece", "step_seconds", "cost")
"""Fields of a row of results.json."""


def run_comparison(config: CompareConfig, watch: Watch = ignore) -> dict[str, Any]:
    """Run or continue a comparison; return what `results.json` holds.

    Args:
        config: of the comparison.
        watch: is told how its runs get on.

    Raises:
        InputError: the folder holds another comparison or is in use, the configuration cannot be
            used, or a run failed; the others have been made by then.

    Example:
        >>> import tempfile
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
    _claim_folder(config)
    with locked(config.out):
        return _compare(config, watch)


def _compare(config: CompareConfig, watch: Watch) -> dict[str, Any]:
    _claim_folder(config)  # again: another command may have left it a moment ago
    fabric = launch(config.device, config.training)
    data = load(config.data)
    start = build_seeded(config, "standard", config.seeds[0], data, num_images=1)
    check_model(start.model, config.model, data.shape_CHW, data.num_classes)
    if fabric.is_global_zero:
        shared = plain(config, leave_out=("out",))
        write_json(
            config.out / "compare.json",
            {"schema": 1, "config": shared, "environment": environment(fabric.device)},
        )
    # Steps are timed while nothing else of ours runs; workers would disturb each other.
    costs = {seed: _costs(config, seed, data, fabric) for seed in config.seeds}
    torch.cuda.empty_cache()  # what was timed is gone, and workers may need its memory
    runs = [_run(config, spec, seed) for seed in config.seeds for spec in config.objectives]
    done = run_all(runs, scheduler_of(config.sweep), watch, fabric=fabric, data=data)
    rows = [result | costs[result["seed"]][result["objective"]] for result in done]
    results = {
        "schema": 1,
        "config": {
            **plain(config, leave_out=("out",)),
            "environment": environment(fabric.device),
        },
        "rows": [{column: row[column] for column in COLUMNS} for row in rows],
        "summary": summarise(rows, config.objectives),
    }
    if fabric.is_global_zero:
        write_json(config.out / "results.json", results)
    return results


def summarise(rows: list[dict[str, Any]], objectives: tuple[str, ...]) -> list[dict[str, Any]]:
    """Mean and std over seeds of each objective, and its paired difference to the first.

    Std is the sample's (None for one seed). The difference is of accuracy in percentage points,
    over the same seeds, with the 95 % interval of Student's t.

    Example:
        >>> rows = [
        ...     {"objective": o, "accuracy": a, "nll": 0.5, "brier": 0.2, "ece": 1.0, "cost": 1.0}
        ...     for o, a in [("a", 90.0), ("b", 92.0), ("a", 91.0), ("b", 92.0)]
        ... ]
        >>> [s["difference_mean"] for s in summarise(rows, ("a", "b"))]
        [0.0, 1.5]
    """
    by_name = {name: [r for r in rows if r["objective"] == name] for name in objectives}
    baseline = [r["accuracy"] for r in by_name[objectives[0]]]
    summary = []
    for name, mine in by_name.items():
        accuracies = [r["accuracy"] for r in mine]
        difference = paired_difference(accuracies, baseline)
        summary.append(
            {
                "objective": name,
                "n": len(mine),
                "accuracy_mean": statistics.fmean(accuracies),
                "accuracy_std": _std(accuracies),
                "difference_mean": difference.mean,
                "difference_ci95": difference.ci95,
                **{f"{k}_mean": statistics.fmean(r[k] for r in mine) for k in _MEANS},
                **{f"{k}_std": _std([r[k] for r in mine]) for k in _MEANS},
                "cost": statistics.fmean(r["cost"] for r in mine),
            }
        )
    return summary


_MEANS = ("nll", "brier", "ece")


def _std(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def run_folder(out: Path, spec: str, seed: int) -> Path:
    """Folder of one run of a comparison.

    Example:
        >>> run_folder(Path("out"), "introspective:weight=0.1", 2).as_posix()
        'out/runs/introspective_weight-0.1-seed2'
    """
    name = re.sub(r"[^\w.+-]+", "_", spec.replace("=", "-"))
    return out / "runs" / f"{name}-seed{seed}"


def _run(config: CompareConfig, spec: str, seed: int) -> TrainConfig:
    """The configuration of one run of a comparison."""
    shared = {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if f.name not in {"objectives", "seeds", "out", "sweep"}
    }
    return TrainConfig(
        **shared, objective=spec, seed=seed, out=run_folder(config.out, spec, seed), resume=True
    )


def _costs(
    config: CompareConfig, seed: int, data: ImageData, fabric: Fabric
) -> dict[str, dict[str, float]]:
    """Interleaved step times of all objectives, measured once for each seed and kept in a file."""
    path = config.out / "cost" / f"seed{seed}.json"
    if path.exists():
        kept = read_json(path)
        if set(config.objectives) <= kept.keys():
            return kept
    names = list(dict.fromkeys(("standard", *config.objectives)))
    prepared = prepare(data, config.data, seed)
    objectives = {
        name: build_seeded(config, name, seed, data, num_images=len(prepared.train))
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
    batch = next(batches.indexed_epoch(0))
    measured = interleaved_cost(objectives, "standard", batch, fabric=fabric)
    costs = {
        name: {"step_seconds": c.step_seconds, "cost": c.ratio} for name, c in measured.items()
    }
    if fabric.is_global_zero:
        write_json(path, costs)
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
