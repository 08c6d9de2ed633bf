"""The same search with several seeds: what it finds each time, and how far that agrees.

The folder holds `seedN/` (one search each, see search.py), and at the end `searches.json`. The same
command again skips what is finished and continues what is not.
"""

import statistics
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from selfexplain.recipes.folder import check_free, kept_said, locked
from selfexplain.recipes.grid import PATIENCE, loaded, run_grid
from selfexplain.recipes.options import plain
from selfexplain.recipes.prepare import load
from selfexplain.recipes.search import run_search
from selfexplain.recipes.search_options import SearchConfig
from selfexplain.recipes.searches_options import SearchesConfig
from selfexplain.recipes.sweep_options import scheduler_of
from selfexplain.recipes.train import StepCallback
from selfexplain.sweeps import Watch, ignore
from selfexplain.training.files import write_record


def run_searches(config: SearchesConfig, watch: Watch = ignore) -> dict[str, Any]:
    """Search with every seed; return what `searches.json` holds.

    Args:
        config: with `seeds`.
        watch: is told how the searches get on.

    Raises:
        InputError: the folder holds something else or is in use, the configuration cannot be used,
            or a search failed; the others have been made by then.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from selfexplain.recipes.options import DataOptions
        >>> out = Path(tempfile.mkdtemp()) / "searches"
        >>> data = DataOptions(data="digits")
        >>> config = SearchesConfig(data=data, method="random", seeds=(0, 1), out=out)
        >>> run_searches(config)["summary"]["n"]
        2
    """
    if not any(config.out.glob("seed*")):
        check_free(config.out)
    with locked(config.out), kept_said(config.out):
        scheduler = scheduler_of(config.sweep)
        load_once = lru_cache(maxsize=1)(load)

        def search_here(one: SearchConfig, on_step: StepCallback) -> dict[str, Any]:
            data = None if one.method == "random" else load_once(one.data)
            return run_search(one, data=data, on_step=on_step)

        function = search_apart if scheduler.apart else search_here
        found = run_grid(function, config.each(), scheduler, watch).complete()
        rows = list(found.values())
        results = {
            "schema": 1,
            "config": plain(config, leave_out=("out", "resume", "seed")),
            "rows": rows,
            "summary": summarise_searches(rows),
        }
        write_record(config.out / "searches.json", results)
    return results


def search_apart(config: SearchConfig, on_step: StepCallback) -> dict[str, Any]:
    """Search in a worker, which keeps the data set for its next search.

    Example:
        >>> search_apart.__module__  # where a worker finds it
        'selfexplain.recipes.searches'
    """
    data = None if config.method == "random" else loaded(config.data)
    return run_search(config, data=data, on_step=on_step, patience=PATIENCE)


def summarise_searches(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and std over seeds, and how many different cells were found.

    Std is the sample's (None for one seed); the accuracy is the supernet's on the held-out half, in
    percent, and None for random cells, which have no supernet.

    Example:
        >>> rows = [
        ...     {"genotype": g, "skips": s, "collapsed": False, "validation_accuracy": a}
        ...     for g, s, a in [("x", 1, 80.0), ("x", 1, 90.0), ("y", 4, 85.0)]
        ... ]
        >>> summary = summarise_searches(rows)
        >>> summary["validation_accuracy_mean"], summary["different_cells"]
        (85.0, 2)
    """
    accuracies = [row["validation_accuracy"] for row in rows if "validation_accuracy" in row]
    skips = [float(row["skips"]) for row in rows]
    return {
        "n": len(rows),
        "different_cells": len({row["genotype"] for row in rows}),
        "collapsed": sum(row["collapsed"] for row in rows),
        **_mean_and_std("skips", skips),
        **_mean_and_std("validation_accuracy", accuracies),
    }


def _mean_and_std(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {
        f"{name}_mean": statistics.fmean(values) if values else None,
        f"{name}_std": statistics.stdev(values) if len(values) > 1 else None,
    }
