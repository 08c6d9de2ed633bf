"""Read the files of runs: every field that is used is checked here, once.

Files of version 0.1.0 may lack fields that came later; those end in a question mark.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from selfexplain.errors import InputError
from selfexplain.evaluation import Scores
from selfexplain.files import read_json
from selfexplain.lease.options import BaseName, Explanation, Method, Selection, Shown
from selfexplain.records import ANYTHING, Flag, ListOf, MapOf, Maybe, Number, Text, Whole, checked
from selfexplain.spaces import SPACES, Genotype, from_string
from selfexplain.spaces.genotype import edges_of
from selfexplain.training.log import EpochLog

REMEDY = "put the file back as it was, or delete it"
PERCENT = Number(0, 100)
SECONDS = Number(0, 1e9)
EPOCH = Whole(1, 10_000_000)
INTERVAL = Maybe(ListOf(Number(), least=2, most=2))
SCORES = {f"{name}?": Number() for name in Scores.__dataclass_fields__}

CONFIG = {
    "objective?": Text(),
    "seed?": Whole(),
    "data?": {"data": Text(), "validation?": Number(0, 1)},
    "training?": {"epochs?": EPOCH, "batch_size?": Whole(1)},
    "options?": MapOf(MapOf(ANYTHING)),
    "model?": Text(),
    "pretrained?": Flag(),
    "genotype?": Text(),
    "init_channels?": Maybe(Whole(1, 4096)),
    "cells?": Maybe(Whole(1, 500)),
    "form?": Text(("small", "imagenet")),
    "auxiliary?": Number(0),
    "drop_path?": Number(0, 1),
}
ENVIRONMENT = {
    "versions?": MapOf(Maybe(Text())),
    "hardware?": Text(),
    "commit?": Maybe(Text()),
    "date?": Text(),
    "command?": Maybe(Text()),
}
IMAGES = {
    "class_names": ListOf(Text(most=10_000), least=1, most=1_000_000),
    "shape?": ListOf(Whole(1, 2**16), least=3, most=3),
    "mean?": ListOf(Number(), least=1, most=2**16),
    "std?": ListOf(Number(0), least=1, most=2**16),
}
TRAINED = {
    "config": {**CONFIG, "objective": Text(), "seed": Whole()},
    "images": IMAGES,
    "environment?": ENVIRONMENT,
}
RESULT = {
    "objective?": Text(),
    "seed?": Whole(),
    **{name: shape for name, shape in SCORES.items() if name != "accuracy?"},
    "accuracy": PERCENT,
    "corrupted_accuracy?": PERCENT,
    "step_seconds?": SECONDS,
    "parameters?": Whole(),
    "multiply_adds?": Whole(),
}
NEEDED = ("objective", "seed", "accuracy", "nll", "brier", "ece", "step_seconds")
"""What a finished run of a comparison has in any case."""
METRICS = {"epoch": EPOCH}
MOST_METRICS = 200
"""Numbers that an epoch has logged."""

SEARCH_CONFIG = {
    "method": Text(get_args(Method)),
    "space": Text(SPACES),
    "seed": Whole(),
    "epochs": EPOCH,
    "batch_size": Whole(1),
    "options?": {
        "control?": Text(),
        "explanation?": Text(get_args(Explanation)),
        "shown?": Text(get_args(Shown)),
        "gradient_path?": Maybe(Text()),
        "eps?": Number(1e-30),
    },
    "base?": {
        "base?": Text(get_args(BaseName)),
        "select?": Text(get_args(Selection)),
        "selection_epochs?": Whole(),
    },
}
EXPLAINED_OPTIONS = {"control": Text(), "shown": Text(), "eps": Number(1e-30)}
SEARCHED = {
    "config": SEARCH_CONFIG,
    "images?": {"train?": Maybe(Whole()), "class_names?": Maybe(IMAGES["class_names"])},
}
FOUND = {
    "seed": Whole(),
    "epochs": Whole(),
    "skips": Whole(),
    "edges": Whole(),
    "collapsed": Flag(),
    "genotype?": Text(),
    "stopped_early?": Flag(),
    "validation_accuracy?": PERCENT,
    "skipped_steps?": Whole(),
    "step_seconds?": SECONDS,
}
SEARCH_RESULT = {**FOUND, "genotype": Text()}
SEARCH_LINE = {
    "epoch": EPOCH,
    "losses": MapOf(Maybe(Number())),
    "validation_accuracy": PERCENT,
    "step_seconds": SECONDS,
    "skip_share": Number(0, 1),
    "genotype": Text(),
    "weights": MapOf(ListOf(ListOf(Number(0, 1))), least=1),
    "alphas?": MapOf(ListOf(ANYTHING)),
    "skipped_steps?": Whole(),
}
SUMMARY_OF_SEARCHES = {
    "n": Whole(1),
    "different_cells": Whole(),
    "collapsed": Whole(),
    "skips_mean": Number(0),
    "skips_std": Maybe(Number(0)),
    "validation_accuracy_mean": Maybe(PERCENT),
    "validation_accuracy_std": Maybe(Number(0)),
}
SEARCHES = {"rows": ListOf(FOUND, least=1), "summary": SUMMARY_OF_SEARCHES}
LOOKUPS = {
    "cells": ListOf(
        {
            "name": Text(),
            "test": PERCENT,
            "validation": PERCENT,
            "seed_std": Maybe(Number(0)),
            "rank": Whole(1),
            "tied": Whole(),
            "cells": Whole(1),
            "percentile": PERCENT,
            "params_m": Number(0),
        }
    )
}

MEAN_AND_STD = {
    "n": Whole(1),
    "accuracy_mean": PERCENT,
    "accuracy_std": Maybe(Number(0)),
    "nll_mean": Number(),
    "nll_std": Maybe(Number(0)),
}
TUNING = {
    "trials": Whole(1),
    "tuner": Text(),
    "validation": Number(0, 1),
    "objectives": ListOf(
        {"objective": Text(), "chosen": Text(), "trials": ListOf(ANYTHING)}, least=1
    ),
}
COMPARED = {
    **CONFIG,
    "objectives": ListOf(Text(), least=1),
    "seeds?": ListOf(Whole(), least=1),
    "environment?": ENVIRONMENT,
    "unfinished?": ListOf(Text()),
    "tuning?": Maybe(TUNING),
}
SUMMARY = {
    "objective": Text(),
    **MEAN_AND_STD,
    "ece_mean": Number(),
    "ece_std": Maybe(Number(0)),
    "difference_mean": Maybe(Number()),
    "difference_ci95": INTERVAL,
    "difference_p?": Maybe(Number()),
    "difference_p_holm?": Maybe(Number()),
    "cost?": Number(1e-30),
    "total_cost?": Number(1e-30),
    "cost_ci95?": INTERVAL,
    "total_cost_ci95?": INTERVAL,
    "corrupted_accuracy_mean?": PERCENT,
    "corrupted_accuracy_std?": Maybe(Number(0)),
}
COMPARISON = {"config": COMPARED, "summary": ListOf(SUMMARY, least=1)}
COMPARED_RUN = {
    "objective": Text(),
    "seed": Whole(),
    **SCORES,
    "accuracy": PERCENT,
    "corrupted_accuracy?": PERCENT,
    "cost?": Number(1e-30),
    "total_cost?": Number(1e-30),
    "cost_ci95?": INTERVAL,
    "total_cost_ci95?": INTERVAL,
}
STUDY = {
    "config?": COMPARED,
    "rows": ListOf(
        {
            "part": Text(),
            **MEAN_AND_STD,
            "gain_mean": Maybe(Number()),
            "gain_ci95": INTERVAL,
            "share": Maybe(Number()),
            "share_ci95": INTERVAL,
        },
        least=1,
    ),
}

STUDIED = {
    "data": {"data": Text()},
    "methods": ListOf(Text(), least=1),
    "seeds": ListOf(Whole(), least=1),
    "budget": ListOf(EPOCH, least=1),
    "space": Text(SPACES),
    "batch_size": Whole(1),
}
SCORE = {
    "n": Whole(1),
    "mean": PERCENT,
    "std": Maybe(Number(0)),
    "difference_mean": Maybe(Number()),
    "difference_ci95": INTERVAL,
    "difference_p": Maybe(Number()),
    "difference_p_holm": Maybe(Number()),
}
SEARCH_OF_STUDY = {"method": Text(), "budget": EPOCH, "seed": Whole(), "genotype": Text()}
NAS_STUDY = {
    "config": {
        **STUDIED,
        "table": Maybe(Text()),
        "retrain": Maybe(EPOCH),
        "retrain_found": Text(("all", "best")),
        "environment": ENVIRONMENT,
        "undecided_below": Number(1),
    },
    "sentence": Text(),
    "reference": Maybe(
        {"cells": Whole(1), "best": PERCENT, "mean": PERCENT, "seed_std": Maybe(Number(0))}
    ),
    "rows": ListOf(
        {
            **SEARCH_OF_STUDY,
            "skips": Whole(),
            "edges": Whole(),
            "collapsed": Flag(),
            "weights": Maybe(MapOf(ListOf(ListOf(Number(0, 1))), least=1)),
            "undecided": Flag(),
            "undecided_edges": Number(0, 1),
            "seconds": Maybe(SECONDS),
            "validation_accuracy?": PERCENT,
            "table?": PERCENT,
            "rank?": Whole(1),
            "curve?": ListOf(PERCENT, least=1),
        },
        least=1,
    ),
    "retrained": ListOf({**SEARCH_OF_STUDY, "found_by": Whole(), "accuracy": PERCENT}),
    "summary": ListOf(
        {
            "method": Text(),
            "budget": EPOCH,
            **SUMMARY_OF_SEARCHES,
            "undecided": Whole(),
            "seconds": {"mean": Maybe(SECONDS), "std": Maybe(SECONDS)},
            "table?": SCORE,
            "retrained?": SCORE,
        },
        least=1,
    ),
}


def read_result(path: Path) -> dict[str, Any]:
    """The `result.json` of a training.

    Raises:
        InputError: it cannot be read, or a field is not what it must be.

    Example:
        >>> read_result(Path("absent/result.json"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no file absent/result.json; pass the folder of ...
    """
    return read_json(path, RESULT)


def read_own_result(path: Path, objective: str, seed: int) -> dict[str, Any]:
    """The `result.json` that a run finds in its own folder, complete.

    Raises:
        InputError: as `read_result`; or it is another run's.
    """
    result = read_json(path, RESULT | dict.fromkeys(NEEDED[:2], ANYTHING))
    wanted = {name: RESULT.get(name, RESULT.get(f"{name}?")) for name in NEEDED}
    wanted["objective"] = Text((objective,))
    wanted["seed"] = Whole(seed, seed)
    checked(result, wanted, path, f"{REMEDY} to train what is missing")
    return result


def read_metrics(folder: Path) -> tuple[dict[str, Any], ...]:
    """What a training logged of its epochs."""
    log = EpochLog(folder)
    lines = log.read()
    for line in lines:
        names = [name for name in line if len(name) > MOST_METRICS]
        if names or len(line) > MOST_METRICS:
            raise InputError(
                f"{log.path} is damaged: epoch {line['epoch']} has {len(line)} fields, or one with "
                f"a name of more than {MOST_METRICS} letters; {REMEDY}"
            )
    return tuple(lines)


def read_comparison(path: Path) -> dict[str, Any]:
    """The `results.json` of a comparison."""
    results = read_json(path, COMPARISON)
    first = results["summary"][0]
    for name in ("total_cost", "corrupted_accuracy_mean", "corrupted_accuracy_std"):
        lacking = [row["objective"] for row in results["summary"] if name not in row]
        if name in first and lacking:
            raise InputError(
                f"{path} is damaged: summary has {name} of {first['objective']} and not of "
                f"{lacking[0]}; {REMEDY}"
            )
    if "corrupted_accuracy_mean" in first and "corrupted_accuracy_std" not in first:
        raise InputError(f"{path} is damaged: corrupted_accuracy_std is missing; {REMEDY}")
    return results


def read_nas_study(path: Path) -> dict[str, Any]:
    """The `results.json` of a study of searches; its cells are some, and it is of one piece.

    Raises:
        InputError: it cannot be read, or a field is not what it must be.
    """
    results = read_json(path, NAS_STUDY)
    looked_up = results["reference"] is not None
    weights = _weights_of(results["config"]["space"])
    for row in results["rows"]:
        genotype_of(row["genotype"], path)
        if row["weights"] is not None:
            checked(row["weights"], weights, path, REMEDY)
        lacking = [name for name in ("table", "rank", "curve") if (name in row) != looked_up]
        if lacking or (looked_up and len(row["curve"]) < row["budget"]):
            what = (lacking or ["curve"])[0]
            raise InputError(f"{path} is damaged: {what} of a row is not what it must be; {REMEDY}")
    kinds = [{kind for kind in ("table", "retrained") if kind in row} for row in results["summary"]]
    if any(own != kinds[0] or ("table" in own) != looked_up for own in kinds):
        raise InputError(f"{path} is damaged: summary lacks an accuracy; {REMEDY}")
    return results


def read_search_run(path: Path) -> dict[str, Any]:
    """The `run.json` of a search."""
    run = read_json(path, SEARCHED)
    if run["config"]["method"] in ("lease", "sanas"):
        checked(run["config"].get("options"), EXPLAINED_OPTIONS, path, REMEDY)
    return run


def read_search_result(path: Path) -> dict[str, Any]:
    """The `result.json` of a search; its cell is one."""
    result = read_json(path, SEARCH_RESULT)
    genotype_of(result["genotype"], path)
    return result


def read_search_lines(log: EpochLog, space: str) -> list[dict[str, Any]]:
    """What a search logged of its epochs; cells, weights and alphas are of its space.

    Raises:
        InputError: a line is not what it must be; names file, line and field.
    """
    lines = log.read(SEARCH_LINE)
    family, rules = SPACES[space].family, SPACES[space].rules
    edges, table = len(edges_of(family)), _weights_of(space)
    own = {f"{name}_edges?": ListOf(Number(-1e6, 1e6), edges, edges) for name in rules.cells}
    for number, line in enumerate(lines, start=1):
        remedy = f"see its line {number}: {REMEDY}"
        checked(line, {"weights": table, "alphas?": table | own}, log.path, remedy)
        if set(line["weights"]) != set(rules.cells) or _uneven(line["weights"].values()):
            raise InputError(
                f"{log.path} is damaged: weights are not those of {' and '.join(rules.cells)}, "
                f"each row with a sum of 1; {remedy}"
            )
        if genotype_of(line["genotype"], log.path).family != family:
            raise InputError(f"{log.path} is damaged: genotype is not of {space}; {remedy}")
    return lines


def _weights_of(space: str) -> dict[str, Any]:
    """What the weights, or the alphas, of each cell of a space are: edges by operations."""
    rules, edges = SPACES[space].rules, len(edges_of(SPACES[space].family))
    row = ListOf(Number(-1e6, 1e6), len(rules.operations), len(rules.operations))
    return dict.fromkeys(rules.cells, ListOf(row, edges, edges))


def _uneven(tables: Any) -> bool:
    return any(abs(math.fsum(row) - 1) > 1e-3 for rows in tables for row in rows)


def genotype_of(text: str, path: Path) -> Genotype:
    """The genotype that a record names."""
    try:
        return from_string(text)
    except InputError as error:
        raise InputError(f"{path} is damaged: genotype: {error}") from error


def check_model_of(config: dict[str, Any], path: Path) -> None:
    """Raise InputError unless a configuration says which model it is of."""
    derived = ("init_channels", "cells", "form", "auxiliary")
    needed = derived if "genotype" in config else ("model",)
    if lacking := [name for name in needed if name not in config]:
        raise InputError(f"{path} is damaged: config.{lacking[0]} is missing; {REMEDY}")


def lengths_agree(path: Path, **lengths: Sequence[Any]) -> None:
    """Raise InputError unless all of these are of one length."""
    if len({len(values) for values in lengths.values()}) > 1:
        said = ", ".join(f"{len(values)} of {name}" for name, values in lengths.items())
        raise InputError(f"{path} is damaged: it has {said}; {REMEDY}")
