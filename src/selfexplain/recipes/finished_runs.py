"""The table of a comparison that is not finished: of the runs that are, and it says which are not.

A table that is made in several sittings can so be looked at, and published, after each of them.
"""

import math
from pathlib import Path
from typing import Any

from selfexplain.errors import InputError
from selfexplain.recipes.finished import check_tensors
from selfexplain.recipes.folder import claim_folder
from selfexplain.recipes.options import CompareConfig, plain
from selfexplain.recipes.read_records import ENVIRONMENT, read_own_result
from selfexplain.recipes.runs import train_config
from selfexplain.recipes.teacher_chain import with_teachers, with_total_cost
from selfexplain.training.files import read_json

Row = dict[str, Any]


def finished_rows(config: CompareConfig) -> tuple[list[Row], list[str]]:
    """Rows of the finished runs, as in `results.json`, and the names of those that are not there.

    Raises:
        InputError: no run of the first objective is finished, so that nothing can be compared; or
            a run was made with other options.

    Example:
        >>> from pathlib import Path
        >>> from selfexplain.recipes.options import DataOptions
        >>> finished_rows(CompareConfig(data=DataOptions(data="digits"), out=Path("absent")))
        Traceback (most recent call last):
        ...
        selfexplain.errors.InputError: no run of standard is finished in absent; leave out ...
    """
    rows, missing = [], []
    for seed in config.seeds:
        costs = _costs(config, seed)
        for spec in config.objectives:
            run = train_config(config, spec, seed, config.out)
            result = run.out / "result.json"
            if spec in costs and result.exists():
                claim_folder(run)
                check_tensors(run.out)
                rows.append(read_own_result(result, spec, seed) | costs[spec])
            else:
                missing.append(f"{spec} with seed {seed}")
    first = config.objectives[0]
    if all(row["objective"] != first for row in rows):
        raise InputError(
            f"no run of {first} is finished in {config.out}; leave out --finished-only to train"
        )
    return rows, missing


def timed_costs(folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """What was timed with a seed and kept in `cost/`, without what is no cost: that is timed anew.

    Args:
        folder: of the comparison.
        seed: of the runs.

    Raises:
        InputError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> from selfexplain.training.files import write_json
        >>> folder = Path(tempfile.mkdtemp())
        >>> kept = {"standard": {"step_seconds": 0.1, "cost": 1.0}, "kd": 3}
        >>> write_json(folder / "cost" / "seed0.json", kept); timed_costs(folder, 0)
        {'standard': {'step_seconds': 0.1, 'cost': 1.0}}
    """
    path = folder / "cost" / f"seed{seed}.json"
    kept = read_json(path) if path.exists() else {}
    return {name: cost for name, cost in kept.items() if _is_cost(cost)}


def _is_cost(value: object) -> bool:
    fields = ("step_seconds", "cost")
    return isinstance(value, dict) and all(
        isinstance(value.get(f), float) and 0 < value[f] < math.inf for f in fields
    )


def _costs(config: CompareConfig, seed: int) -> dict[str, dict[str, float]]:
    """Costs of the objectives that were timed with this seed, their teachers too."""
    timed = timed_costs(config.out, seed)
    known = [s for s in config.objectives if timed.keys() >= set(with_teachers(config, [s]))]
    return with_total_cost(config, known, timed)


def environment_of(config: CompareConfig) -> dict[str, Any]:
    """Where the runs were made, as their comparison noted it.

    Raises:
        InputError: the folder holds no comparison.
    """
    path = config.out / "compare.json"
    if not path.exists():
        raise InputError(f"{config.out} holds no comparison; pass --out with the folder of one")
    environment: dict[str, Any] = read_json(path, {"environment": ENVIRONMENT})["environment"]
    return environment


def unfinished_config(config: CompareConfig, missing: list[str]) -> dict[str, Any]:
    """What `results.json` says of the configuration of an unfinished comparison."""
    shared = plain(config, leave_out=("out",))
    unfinished = {"unfinished": missing} if missing else {}
    return {**shared, "environment": environment_of(config), **unfinished}
