"""The same search with several seeds: what it finds each time, and how far that agrees.

The folder holds `seedN/` (one search each, see search.py), and at the end `searches.json`. The same
command again skips what is finished and continues what is not.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selfexplain.data import ImageData
from selfexplain.data.datasets import check_spec
from selfexplain.experiments.compare.grid import (
    LOCK_TIMEOUT,
    loaded,
    run_grid,
    shared_images,
    stored,
)
from selfexplain.experiments.data import load, prepare
from selfexplain.experiments.options import DeviceOptions, scheduler_of, to_dict
from selfexplain.experiments.read_records import read_search_result
from selfexplain.experiments.run_dir import check_free, claim_folder, locked, write_run
from selfexplain.experiments.runtime import launch, logged, reraise_oom
from selfexplain.experiments.search.loop import SearchProgress, StepCallback
from selfexplain.experiments.search.setup import (
    BilevelLoader,
    build_search,
    collapsed,
    skip_connections,
    write_outcome,
)
from selfexplain.experiments.search_options import SearchConfig, SearchesConfig
from selfexplain.files import write_record
from selfexplain.launchers import Scheduler, Store, Watch, ignore
from selfexplain.lease import ArchitectureSearch
from selfexplain.lease.options import WITHOUT_SEARCH
from selfexplain.limits import is_url
from selfexplain.models.build import check_model_name, check_without_weights
from selfexplain.spaces import SPACES, Genotype, all_conv3x3, random_genotype, to_string
from selfexplain.training import TrainingOptions
from selfexplain.training.loggers import Logger, numbers
from selfexplain.training.processes import joined_processes
from selfexplain.training.steps import RecordedStep

if TYPE_CHECKING:
    from lightning_fabric import Fabric


# Search for an architecture, on one process or on those of torchrun, and write down how it went.
#
# A search's folder holds `run.json` (configuration, environment), then after every epoch
# `search.jsonl`, `checkpoint.pt` and, if the method explains, its `album/` (`loop.py`), and
# at the end `genotype.json`, `cell.svg`, `architecture.png` and `result.json`.


def run_search(
    config: SearchConfig,
    *,
    data: ImageData | None = None,
    on_step: StepCallback = lambda done, total: None,
    lock_timeout: float = 0.0,
    watchers: Sequence[Logger] = (),
) -> dict[str, Any]:
    """Search as the configuration says; return what `result.json` holds.

    Args:
        config: the whole configuration; it is saved in the folder.
        data: the data set, if the caller has loaded it already.
        on_step: called after every step with the number of steps done and of the whole search's.
        lock_timeout: seconds to wait for another process to leave the folder.
        watchers: are told of every epoch, as loggers are; not closed.

    Raises:
        InputError: the folder holds another run, or anything in the configuration cannot be used.
        OutOfMemoryError: the GPU has no memory left; the last checkpoint is kept.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from selfexplain.experiments.options import DataOptions
        >>> out = Path(tempfile.mkdtemp()) / "search"
        >>> options = DataOptions(data="digits", train_size=64)
        >>> config = SearchConfig(data=options, method="random", out=out)
        >>> sorted(run_search(config))
        ['collapsed', 'edges', 'epochs', 'genotype', 'method', 'seed', 'skips', 'space']
    """
    if config.method == "lease":
        check_model_name(config.audience)  # before any data are read
        check_without_weights(config.audience, "pass an audience that starts from none")
    identity = claim_folder(config)
    done = config.out / "result.json"
    if done.exists():
        return read_search_result(done)
    remedy = "pass a smaller --batch-size, or let fewer searches share the GPU"
    if data is None:
        check_spec(config.data.data)
    with locked(config.out, lock_timeout), reraise_oom(remedy):
        training = TrainingOptions(cuda_graph=config.cuda_graph)
        fabric = launch(DeviceOptions(accelerator=config.accelerator), training)
        fabric.barrier()  # every process has looked at the folder before one writes to it
        result: dict[str, Any] = {}
        with logged(config, first=fabric.is_global_zero) as loggers:
            if config.method not in WITHOUT_SEARCH:
                told = [*loggers, *watchers]
                result = _search(config, identity, fabric, data, on_step, told)
            elif fabric.is_global_zero:
                result = _cell_without_search(config, loggers)
        return fabric.broadcast(result)  # once the first process has written


def _search(
    config: SearchConfig,
    identity: str,
    fabric: Fabric,
    data: ImageData | None,
    on_step: StepCallback,
    loggers: Sequence[Logger],
) -> dict[str, Any]:
    """Run the search on every process; the first one writes and returns the result."""
    device, processes = fabric.device, joined_processes()
    images = data if data is not None else load(config.data)
    prepared = prepare(images, config.data, config.seed)

    def build(stage: int = 0) -> ArchitectureSearch:
        search = build_search(config, images, prepared.std_C, device, processes, stage)
        if config.precision == "bf16":
            search.autocast(torch.bfloat16)
        if config.cuda_graph:
            search.record(RecordedStep)
        return search

    search = build()
    halves = BilevelLoader(config, prepared, device, processes)
    if fabric.is_global_zero:
        about = {
            "train": len(prepared.train),
            "held_out": len(prepared.scored),
            "class_names": list(prepared.class_names),
        }
        write_run(config, about, device, processes.count)
    progress = SearchProgress(config, search, halves, prepared, fabric, loggers, build)
    progress.run(identity, on_step)
    if not fabric.is_global_zero:
        return {}
    write_outcome(config.out, progress.genotype, progress.lines())
    return _write_result(config, progress.genotype, progress.outcome(), loggers)


def _cell_without_search(config: SearchConfig, loggers: Sequence[Logger]) -> dict[str, Any]:
    """What a search must beat: a cell drawn uniformly from the space, or 3x3 convolutions alone."""
    family = SPACES[config.space].family
    if config.method == "random":
        genotype = random_genotype(family, torch.Generator().manual_seed(config.seed))
    else:
        genotype = all_conv3x3(family)
    write_run(config, {}, torch.device("cpu"))
    write_outcome(config.out, genotype, [])
    return _write_result(config, genotype, {"epochs": 0}, loggers)


def _write_result(
    config: SearchConfig, genotype: Genotype, more: dict[str, Any], loggers: Sequence[Logger]
) -> dict[str, Any]:
    skips, edges = skip_connections(genotype)
    result = {
        "method": config.method,
        "space": config.space,
        "seed": config.seed,
        "genotype": to_string(genotype),
        "skips": skips,
        "edges": edges,
        "collapsed": collapsed(genotype),
        **more,
    }
    for logger in loggers:
        logger.finish(numbers(result))
    write_record(config.out / "result.json", result)
    return result


def run_searches(
    config: SearchesConfig, watch: Watch = ignore, *, store: Store | None = None
) -> dict[str, Any]:
    """Search with every seed; return what `searches.json` holds.

    Args:
        config: with `seeds`. If `out` is a URL, the folder is copied there.
        watch: is told how the searches get on.
        store: where finished searches are copied to, if the caller has opened it (`stored`).

    Raises:
        InputError: the folder holds something else or is in use, the configuration cannot be used,
            or a search failed; the others have been made by then.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from selfexplain.experiments.options import DataOptions
        >>> out = Path(tempfile.mkdtemp()) / "searches"
        >>> data = DataOptions(data="digits")
        >>> config = SearchesConfig(data=data, method="random", seeds=(0, 1), out=out)
        >>> run_searches(config)["summary"]["n"]
        2
    """
    if is_url(config.out):
        with stored(config) as (here, opened):
            return run_searches(here, watch, store=opened)
    if not any(config.out.glob("seed*")):
        check_free(config.out)
    with locked(config.out), shared_images(config.sweep, config.out) as images:
        scheduler = scheduler_of(config.sweep, store)
        rows = search_all(config.each(), scheduler, watch, images=images)
        results = {
            "schema": 1,
            "config": to_dict(config, leave_out=("out", "resume", "seed")),
            "rows": rows,
            "summary": summarise_searches(rows),
        }
        write_record(config.out / "searches.json", results)
    return results


def search_all(
    configs: Sequence[SearchConfig],
    scheduler: Scheduler,
    watch: Watch = ignore,
    *,
    images: Path | None = None,
    data: ImageData | None = None,
) -> list[dict[str, Any]]:
    """Carry out or continue every search; return what each one's `result.json` holds.

    Args:
        configs: each with a folder of its own.
        scheduler: carries them out.
        watch: is told how they get on.
        images: folder of the decoded images that they share; None to have each worker decode its
            own.
        data: for searches in this process: the data set, if the caller has loaded it already.

    Raises:
        InputError: a search could not be made; the others have been made by then.
    """
    load_once = lru_cache(maxsize=1)(load)

    def search_serially(one: SearchConfig, on_step: StepCallback) -> dict[str, Any]:
        own = data
        if own is None and one.method not in WITHOUT_SEARCH:
            own = load_once(one.data, images)
        return run_search(one, data=own, on_step=on_step)

    function = partial(search_isolated, images=images) if scheduler.isolated else search_serially
    return list(run_grid(function, configs, scheduler, watch).complete().values())


def search_isolated(
    config: SearchConfig, on_step: StepCallback, *, images: Path | None = None
) -> dict[str, Any]:
    """Search in a worker, which keeps the data set for its next search."""
    data = None if config.method in WITHOUT_SEARCH else loaded(config.data, images)
    return run_search(config, data=data, on_step=on_step, lock_timeout=LOCK_TIMEOUT)


def summarise_searches(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and std over seeds, and how many different cells were found.

    Std is the sample's (None for one seed); the accuracy is the supernet's on the held-out half, in
    percent, and None for random cells, which have no supernet.
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
